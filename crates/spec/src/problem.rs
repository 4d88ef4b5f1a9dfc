//! The error of every crate: what kind of failure it is, what exactly is wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

/// The result of a call that can fail.
pub type Result<T> = std::result::Result<T, Problem>;

/// A failure: what is wrong, with the numbers that show it, and a hint that works when followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Decides what callers do: retry, save, give up, and with which exit code.
    pub kind: ProblemKind,
    /// What is wrong with which thing, with its numbers; no full stop.
    pub problem: String,
    /// One thing to do that works.
    pub hint: String,
}

/// The kind of a failure, as far as callers act differently on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A failure that no rule depends on.
    Failed,
    /// The command, the configuration or an input is wrong; nothing was started.
    Input,
    /// The operating system refused a file or folder.
    Io(io::ErrorKind),
    /// A file does not hold what was written to it.
    Damaged,
    /// Data is not what it was when it was prepared.
    Changed,
    /// The losses or gradients of a run show that its weights are of no use any more.
    Diverged,
    /// A device is missing or cannot do what is asked.
    Device,
    /// A device has too little free memory.
    DeviceFull {
        /// Bytes that were asked for.
        needs_bytes: u64,
        /// Bytes that the device has; 0 where they are unknown.
        has_bytes: u64,
    },
    /// A device no longer answers.
    DeviceLost,
    /// An invariant of Lingot is broken.
    Bug,
}

impl ProblemKind {
    /// Whether the operating system refused a file in a way that may pass by itself: a disk that is full or
    /// fails, too many open files. A missing file or permission does not pass.
    pub fn may_pass(self) -> bool {
        use io::ErrorKind::{
            AlreadyExists, CrossesDevices, FileTooLarge, InvalidData, InvalidFilename, InvalidInput,
            IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, UnexpectedEof,
            Unsupported,
        };
        let ProblemKind::Io(kind) = self else { return false };
        !matches!(
            kind,
            AlreadyExists
                | CrossesDevices
                | FileTooLarge
                | InvalidData
                | InvalidFilename
                | InvalidInput
                | IsADirectory
                | NotADirectory
                | NotFound
                | PermissionDenied
                | ReadOnlyFilesystem
                | UnexpectedEof
                | Unsupported
        )
    }

    /// Whether a file does not hold what it should, as opposed to one that cannot be read now.
    pub fn is_damage(self) -> bool {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        matches!(self, ProblemKind::Damaged | ProblemKind::Io(InvalidData | UnexpectedEof))
    }

    /// Whether a device is at fault: it is missing, full or lost.
    pub fn is_device(self) -> bool {
        matches!(self, ProblemKind::Device | ProblemKind::DeviceFull { .. } | ProblemKind::DeviceLost)
    }
}

impl Problem {
    /// A problem of kind [`ProblemKind::Failed`].
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { kind: ProblemKind::Failed, problem: problem.into(), hint: hint.into() }
    }

    /// A broken invariant of Lingot.
    pub fn bug(problem: impl Into<String>) -> Problem {
        Problem::new(problem, "this is a bug; report it").of(ProblemKind::Bug)
    }

    /// A damaged checkpoint.
    pub fn damaged(problem: impl Into<String>) -> Problem {
        Problem::new(problem, "the checkpoint is damaged; copy it again, or use an older one")
            .of(ProblemKind::Damaged)
    }

    /// Returns the same problem with another kind.
    pub fn of(self, kind: ProblemKind) -> Problem {
        Problem { kind, ..self }
    }

    /// A file or folder that the operating system refused; `verb` completes "cannot ...".
    pub fn io(verb: &str, path: &Path, error: &io::Error) -> Problem {
        use io::ErrorKind::{
            FileTooLarge, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
            StorageFull,
        };
        let hint = match error.kind() {
            StorageFull | QuotaExceeded => {
                "free some disk space or choose another folder, then run the same command again"
            }
            FileTooLarge => {
                "the file is larger than this file system or `ulimit -f` allows; choose another folder"
            }
            PermissionDenied => {
                "check the permissions of the file and of its folder, or choose another folder"
            }
            ReadOnlyFilesystem => "the file system is mounted read-only; choose another folder",
            NotADirectory => "a part of the path is a file, not a folder; choose another path",
            NotFound => "check the path; relative paths start from the current directory",
            _ => "check the path and the disk, then run the same command again",
        };
        Problem::new(format!("cannot {verb} {}: {error}", path.display()), hint)
            .of(ProblemKind::Io(error.kind()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\nhint: {}", self.problem, self.hint)
    }
}

impl std::error::Error for Problem {}
