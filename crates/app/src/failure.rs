//! How the program fails: an error, a hint, and the exit code.

use crate::output;
use crate::terminal::Terminal;
use lingot_spec::{Problem, ProblemKind};
use std::path::Path;
use std::process::ExitCode;

pub type Result<T> = std::result::Result<T, Failure>;

/// The exit codes; `docs/cli.md` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A run, a file or a folder failed.
    Failed = 1,
    /// The command, the configuration or the input is wrong; nothing was started.
    Input = 2,
    /// A device is missing, or has no room.
    Device = 3,
    /// Ctrl-C; the run can be resumed.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// What went wrong, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub problem: String,
    pub hint: String,
}

impl Failure {
    /// A failure of the user's input.
    pub fn input(problem: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { code: Code::Input, problem: problem.into(), hint: hint.into() }
    }

    /// A file or folder that the operating system refused; `verb` completes "cannot ...".
    pub fn io(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
        Problem::io(verb, path, error).into()
    }

    /// The same failure under another code; the failure of a device keeps its own.
    pub fn with(self, code: Code) -> Failure {
        if self.code == Code::Device { self } else { Failure { code, ..self } }
    }

    /// A problem found while reading the user's input.
    pub fn of_input(problem: Problem) -> Failure {
        Failure::from(problem).with(Code::Input)
    }

    /// Prints the error and its hint on standard error.
    pub fn print(&self, terminal: &Terminal) {
        output::labelled(&terminal.red("error:"), &self.problem);
        if !self.hint.is_empty() {
            output::notice("");
            output::labelled(&terminal.bold("hint:"), &self.hint);
        }
    }
}

/// Ends the program where not even its reserve of memory suffices. Allocates nothing.
pub fn out_of_memory() {
    output::draw(
        "error: memory is exhausted; what was saved before is as it was\n\n\
         hint: use a smaller batch.micro or a smaller model, and run the same command again\n",
    );
    std::process::exit(Code::Device as i32);
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        let code = match problem.kind {
            ProblemKind::Input | ProblemKind::Changed => Code::Input,
            kind if kind.is_device() => Code::Device,
            _ => Code::Failed,
        };
        Failure { code, problem: problem.problem, hint: problem.hint }
    }
}

impl From<lingot_device::Error> for Failure {
    fn from(error: lingot_device::Error) -> Failure {
        Problem::from(error).into()
    }
}
