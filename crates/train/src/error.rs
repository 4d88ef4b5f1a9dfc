//! The error of the training floor: what is wrong, and what to do about it.

use lingot_spec::model::SpecError;
use std::path::Path;

pub type Result<T> = std::result::Result<T, Error>;

/// A problem, with the numbers that show it, and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub problem: String,
    pub hint: String,
    /// The device is missing, or has no room.
    pub is_device: bool,
    /// The device is there, and has no room.
    pub is_full: bool,
}

impl Error {
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Error {
        Error { problem: problem.into(), hint: hint.into(), is_device: false, is_full: false }
    }

    /// A checkpoint is not what it was when it was written.
    pub(crate) fn damaged(problem: String) -> Error {
        Error::new(problem, "the checkpoint is damaged; copy it again, or use an older one")
    }

    /// A file or folder refused; `verb` completes "cannot ...".
    pub fn io(verb: &str, path: &Path, error: &std::io::Error) -> Error {
        use std::io::ErrorKind::{
            FileTooLarge, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
        };
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let hint = match error.kind() {
            StorageFull | QuotaExceeded => "free some space, or choose another folder in RUN.toml",
            FileTooLarge => {
                "the file is larger than this file system or `ulimit -f` allows; choose another folder"
            }
            PermissionDenied | ReadOnlyFilesystem => "this user may not do that there; choose another folder",
            NotADirectory => "a part of the path is a file, not a folder; choose another path",
            NotFound => "check the path; relative paths start from the current directory",
            _ => "check the path and the disk",
        };
        Error::new(format!("cannot {verb} {}: {error}", path.display()), hint)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n\nhint: {}", self.problem, self.hint)
    }
}

impl std::error::Error for Error {}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Error {
        Error::new(error.problem, error.hint)
    }
}

impl From<lingot_data::Error> for Error {
    fn from(error: lingot_data::Error) -> Error {
        Error::new(error.problem, error.hint)
    }
}

impl From<lingot_device::Error> for Error {
    fn from(error: lingot_device::Error) -> Error {
        let text = error.to_string();
        let (problem, hint) = text.split_once("\n\nhint: ").unwrap_or((&text, "this is a bug; report it"));
        use lingot_device::Error::{Lost, OutOfMemory, Unsupported};
        let is_device = matches!(error, OutOfMemory { .. } | Unsupported { .. } | Lost { .. });
        let is_full = matches!(error, OutOfMemory { .. });
        Error { is_device, is_full, ..Error::new(problem, hint) }
    }
}
