//! Looks for devices, each of torch's in a process of its own.
//!
//! Opening one runs a maker's code in its library's initialisers. That may crash, throw what Rust cannot
//! catch, or wait for a driver for ever; and two makers' libraries in one process can do each of these though
//! either alone does not.

use crate::devices::Device;
use crate::failure::{Failure, Result};
use lingot_device::open;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Seconds that a device has to open. A driver that wakes its card may need several.
pub const LIMIT_S: u32 = 8;

/// What a process that looked for a device says on standard output.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    Found(Device),
    Missing(String),
}

/// Opens a device in this process.
pub fn answer(name: &str) -> Answer {
    match open::look_for(name) {
        Ok(found) => Answer::Found(found.into()),
        Err(problem) => Answer::Missing(problem.problem),
    }
}

/// Tries every device that Lingot knows by name. Returns each name with what was found, or the reason why
/// nothing was.
///
/// # Errors
/// If this program cannot be started again.
pub fn survey(limit: Duration) -> Result<Vec<(String, std::result::Result<Device, String>)>> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("find", std::path::Path::new("this program"), &error))?;
    let ends = Instant::now() + limit;
    let started: Vec<_> = open::OF_TORCH
        .iter()
        .map(|name| {
            let mut command = Command::new(&program);
            command.args(["devices", "--probe", name]).stdin(Stdio::null());
            (*name, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
        })
        .collect();
    let built_in = open::BUILT_IN.iter().map(|name| (*name, reply(answer(name))));
    let of_torch = started.into_iter().map(|(name, child)| match child {
        Ok(child) => (name, Watched::new(child).wait(ends, limit)),
        Err(error) => (name, Err(format!("no process could be started for it: {error}"))),
    });
    Ok(built_in.chain(of_torch).map(|(name, found)| (name.to_owned(), found)).collect())
}

/// The names of the devices that can be opened and that add computing power: neither the slow definition, nor
/// torch's view of the processor, which is `cpu` already.
///
/// # Errors
/// If this program cannot be started again.
pub fn all() -> Result<Vec<String>> {
    let found = survey(Duration::from_secs(LIMIT_S.into()))?;
    let names = found.into_iter().filter_map(|(name, found)| found.is_ok().then_some(name));
    Ok(names.filter(|name| !["reference", "torch:cpu"].contains(&name.as_str())).collect())
}

fn reply(answer: Answer) -> std::result::Result<Device, String> {
    match answer {
        Answer::Found(device) => Ok(device),
        Answer::Missing(reason) => Err(reason),
    }
}

/// A process whose two streams are read, so that it never waits for a reader.
struct Watched {
    child: Child,
    out: thread::JoinHandle<String>,
    err: thread::JoinHandle<String>,
}

impl Watched {
    fn new(mut child: Child) -> Watched {
        let out = reader(child.stdout.take());
        let err = reader(child.stderr.take());
        Watched { child, out, err }
    }

    /// Waits for the answer. After `ends` the process is killed.
    fn wait(mut self, ends: Instant, limit: Duration) -> std::result::Result<Device, String> {
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < ends => thread::sleep(Duration::from_millis(5)),
                Ok(None) => break None,
                Err(error) => return Err(format!("its process cannot be waited for: {error}")),
            }
        };
        let Some(status) = status else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let seconds = limit.as_secs();
            return Err(format!("its library did not answer within {seconds} s; --timeout-s allows more"));
        };
        let text = self.out.join().unwrap_or_default();
        match serde_json::from_str(&text) {
            Ok(answer) if status.success() => reply(answer),
            _ => Err(died(status, &self.err.join().unwrap_or_default())),
        }
    }
}

/// Reads a stream to its end, in a thread of its own.
fn reader(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = vec![];
        if let Some(stream) = stream {
            // What was read before an error is all there is.
            let _ = stream.take(1 << 20).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How a process ended that gave no answer, with the words that its library left.
fn died(status: ExitStatus, words: &str) -> String {
    if words.contains("cannot catch foreign exceptions") {
        return "its library threw a C++ exception while it was opened".into();
    }
    let lines = || words.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = lines().find_map(|line| line.strip_prefix("what():")).or_else(|| lines().next_back());
    let said = telling.map_or(String::new(), |line| format!("; it said: {}", line.trim()));
    format!("its library ended the process ({status}){said}")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn an_exception_is_called_one() {
        let said = died(
            ExitStatus::from_raw(6),
            "fatal runtime error: Rust cannot catch foreign exceptions, aborting\n",
        );
        assert_eq!(said, "its library threw a C++ exception while it was opened");
    }

    #[test]
    fn the_words_of_an_exception_are_told_rather_than_the_last_line() {
        let words = "terminate called after throwing an instance of 'c10::Error'\n  what():  Duplicated key\n\
                     Exception raised from a.cpp:1\n";
        let said = died(ExitStatus::from_raw(6), words);
        assert!(said.contains("SIGABRT") && said.ends_with("it said: Duplicated key"), "{said}");
        assert!(!died(ExitStatus::from_raw(11), "\n").contains("it said"));
    }
}
