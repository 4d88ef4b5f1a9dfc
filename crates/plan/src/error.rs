//! The error of the planner: what is wrong, and what to do about it.

pub type Result<T> = std::result::Result<T, Error>;

/// A problem, with the numbers that show it, and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub problem: String,
    pub hint: String,
}

impl Error {
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Error {
        Error { problem: problem.into(), hint: hint.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n\nhint: {}", self.problem, self.hint)
    }
}

impl std::error::Error for Error {}

/// Refuses numbers that are not finite and positive.
pub(crate) fn positive(key: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::new(format!("{key} is {value}"), format!("give {key} a finite number above 0")))
}

/// `did you mean` of the nearest valid choice.
pub(crate) fn nearest<'a>(wanted: &str, choices: impl Iterator<Item = &'a str>) -> String {
    let wanted = wanted.to_lowercase();
    let best = choices
        .map(|choice| (strsim::jaro_winkler(&wanted, &choice.to_lowercase()), choice))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map_or_else(|| "there are none to choose from".into(), |(_, name)| format!("did you mean `{name}`?"))
}
