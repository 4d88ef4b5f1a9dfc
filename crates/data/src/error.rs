//! What went wrong and what to do about it; and how progress is told.

use std::fmt;
use std::io;
use std::path::Path;

/// A mistake that the user can mend: the problem with its numbers, and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub problem: String,
    pub hint: String,
}

pub type Result<T> = std::result::Result<T, Error>;

/// Called now and then with how far a stage has come. The caller draws.
pub type Progress<'a> = &'a dyn Fn(Stage);

/// How far one stage of the preparation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: &'static str,
    /// Bytes.
    pub done: u64,
    /// Bytes.
    pub total: u64,
}

impl Error {
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Error {
        Error { problem: problem.into(), hint: hint.into() }
    }

    /// The operating system said no: `doing` is a verb, as in "cannot read FILE".
    pub(crate) fn file(doing: &str, path: &Path, error: &io::Error) -> Error {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "check the path; relative paths start at the folder the command runs in"
            }
            io::ErrorKind::PermissionDenied => "check the permissions of the file and of its folder",
            io::ErrorKind::StorageFull => "free some disk space, then run the same command again",
            _ => "check the disk, then run the same command again",
        };
        Error::new(format!("cannot {doing} {}: {error}", path.display()), hint)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\nhint: {}", self.problem, self.hint)
    }
}

impl std::error::Error for Error {}
