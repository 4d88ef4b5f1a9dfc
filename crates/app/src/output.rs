//! All that the program writes: results to standard output, everything else to standard error.
//!
//! A result that cannot be written is a failure. A notice that cannot be written is dropped: a run has to
//! survive the reader of its messages. `print!` and `eprint!` would panic when that reader is gone.

use crate::failure::{Code, Failure, Result};
use lingot_spec::Problem;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Writes text that was asked for. Errors if standard output does not take all of it.
pub fn result(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(lost)
}

/// The failure to write a result.
fn lost(error: std::io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::BrokenPipe => "let the reader of the pipe take all of the output, or write it to a file",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some disk space, or write the output to another place"
        }
        _ => "write the output to another place, such as `> result.txt`",
    };
    let problem = format!("cannot write the result to standard output: {error}");
    Failure { code: Code::Failed, problem, hint: hint.into() }
}

/// Whether standard output still has a reader. True where the system does not tell: then the next write
/// shows it. For work that may go on for long without writing.
pub fn has_reader() -> bool {
    #[cfg(unix)]
    {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let out = std::io::stdout();
        let mut asked = [PollFd::new(&out, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let told = poll(&mut asked, Some(&at_once)).is_ok();
        !(told && asked[0].revents().intersects(PollFlags::ERR))
    }
    #[cfg(not(unix))]
    true
}

/// Errors if the reader of standard output is gone, so that what was made is lost.
pub fn refuse_lost_reader() -> Result<()> {
    #[cfg(unix)]
    let gone = std::io::Error::from(rustix::io::Errno::PIPE);
    #[cfg(not(unix))]
    let gone = std::io::Error::from(ErrorKind::BrokenPipe);
    if has_reader() { Ok(()) } else { Err(lost(gone)) }
}

/// Writes the one object of `--json`; `docs/json.md` lists the keys.
pub fn json(value: &impl Serialize) -> Result<()> {
    result(&format!("{}\n", to_json(value)?))
}

/// Writes one object of several as a line of its own.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string(value).map_err(|error| Problem::bug(format!("cannot write JSON: {error}")))?;
    result(&format!("{text}\n"))
}

/// A value as indented JSON.
pub fn to_json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)
        .map_err(|error| Problem::bug(format!("cannot write JSON: {error}")))?)
}

/// Writes a line for people to standard error, or drops it where nothing takes it.
pub fn notice(text: &str) {
    draw(&format!("{text}\n"));
}

/// Writes text as it is to standard error, in one call, so that the lines of several threads do not mix.
pub fn draw(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Ends the program where the command line was a question (`--help`, `--version`) or is wrong.
pub fn usage(answer: &clap::Error) -> Result<ExitCode> {
    let text = answer.render().to_string();
    if answer.use_stderr() {
        notice(text.trim_end());
        return Ok(Code::Input.into());
    }
    result(&text)?;
    Ok(ExitCode::SUCCESS)
}
