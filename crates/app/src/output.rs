//! All that the program writes: results to standard output, everything else to standard error.
//!
//! A result that cannot be written is a failure. A notice that cannot be written is dropped: a run has to
//! survive the reader of its messages. `print!` and `eprint!` would panic when that reader is gone.
//!
//! Text may come from corpora, models, names and keys of files that somebody else wrote. So what could
//! command a terminal is escaped here, in every line; only a label that the program painted is written as it
//! is. `--json` and files keep the text itself.

use crate::failure::{Code, Failure, Result};
use crate::terminal::Painted;
use lingot_spec::Problem;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Writes text that was asked for. Errors if standard output does not take all of it.
pub fn result(text: &str) -> Result<()> {
    write(&escaped(text))
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::BrokenPipe => {
                "let the reader of the pipe take all of the output, or write it to a file"
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "free some disk space, or write the output to another place"
            }
            _ => "write the output to another place, such as `> result.txt`",
        };
        let problem = format!("cannot write the result to standard output: {error}");
        Failure { code: Code::Failed, problem, hint: hint.into() }
    })
}

/// Writes the one object of `--json`; `docs/json.md` lists the keys.
pub fn json(value: &impl Serialize) -> Result<()> {
    write(&format!("{}\n", to_json(value)?))
}

/// A value as indented JSON.
pub fn to_json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)
        .map_err(|error| Problem::bug(format!("cannot write JSON: {error}")))?)
}

/// Writes a line for people to standard error, or drops it where nothing takes it.
pub fn notice(text: &str) {
    draw(&format!("{}\n", escaped(text)));
}

/// Writes a line for people that begins with a label.
pub fn labelled(label: &Painted, text: &str) {
    draw(&format!("{label} {}\n", escaped(text)));
}

/// Writes what was escaped and painted already to standard error, in one call, so that the lines of several
/// threads do not mix.
pub fn draw(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Replaces every character that could command a terminal by its number, as in `\u{1b}`: control characters
/// except for line ends and tabs, and those that reorder the text around them (Unicode TR 36, 2.10).
pub fn escaped(text: &str) -> Cow<'_, str> {
    let commands = |letter: char| {
        (letter.is_control() && letter != '\n' && letter != '\t')
            || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(commands) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' if letters.peek() == Some(&'\n') => shown.push(letter),
            '\r' => shown.push_str("\\r"),
            _ if commands(letter) => shown.extend(letter.escape_unicode()),
            _ => shown.push(letter),
        }
    }
    shown.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_escaped_and_other_text_is_not() {
        for (text, shown) in [
            ("plain \u{e9}\u{2603} text\twith\r\nlines\n", "plain \u{e9}\u{2603} text\twith\r\nlines\n"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\u{8}\u{7f}\u{0}", "a\\u{8}\\u{7f}\\u{0}"),
            ("over\rwritten\r", "over\\rwritten\\r"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }
}
