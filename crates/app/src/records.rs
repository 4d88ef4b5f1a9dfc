//! Files of one JSON object a line, as people give them.

use crate::failure::{Code, Failure, Result};
use lingot_spec::python_json::{NotFinite, repair};
use std::path::Path;

/// A line that is not blank.
pub struct Record {
    /// `FILE:NUMBER`, for errors.
    pub place: String,
    /// The line as JSON proper, whatever Python wrote.
    pub json: String,
    /// Halves of surrogate pairs that became U+FFFD.
    pub lone_surrogates: u64,
}

/// Reads the lines of a file. Errors if it cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error).with(Code::Input))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let problem = format!("{} is not UTF-8: byte {at} begins no character", path.display());
        Failure::input(problem, "convert it, for example with `iconv -f LATIN1 -t UTF-8`")
    })?;
    let mut records = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        if !line.is_empty() {
            let repaired = repair(line, NotFinite::Null);
            records.push(Record {
                place: format!("{}:{}", path.display(), number + 1),
                json: repaired.json.into(),
                lone_surrogates: repaired.lone_surrogates,
            });
        }
    }
    Ok(records)
}
