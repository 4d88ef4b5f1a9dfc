//! Checks that `request`, `catalogue` and `money` share.

use lingot_spec::problem::{Problem, Result};

/// Errors if the value is not finite and above 0.
pub(crate) fn positive(key: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Problem::new(format!("{key} is {value}"), format!("give {key} a finite number above 0")))
}

/// A hint that names the choice most like `wanted`.
pub(crate) fn nearest<'a>(wanted: &str, choices: impl Iterator<Item = &'a str>) -> String {
    let wanted = wanted.to_lowercase();
    let best = choices
        .map(|choice| (strsim::jaro_winkler(&wanted, &choice.to_lowercase()), choice))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map_or_else(|| "there are none to choose from".into(), |(_, name)| format!("did you mean `{name}`?"))
}
