//! `run.jsonl`: one line per event, cut back when a run is resumed.

use lingot_spec::event::{Event, SCHEMA};
use lingot_spec::problem::{Problem, Result};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file's name inside a run's folder.
pub const FILE: &str = "run.jsonl";

/// The log of a running run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens `<folder>/run.jsonl` for appending, as it was when `resume_step` steps had been taken: later
    /// lines, an earlier end and a torn last line are cut off in one rename. From step 0 the log begins anew.
    pub fn open(folder: &Path, resume_step: u64) -> Result<Log> {
        fs::create_dir_all(folder).map_err(|error| Problem::io("make the run folder", folder, &error))?;
        let path = folder.join(FILE);
        cut(&path, resume_step)?;
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(|error| Problem::io("open", &path, &error))?;
        Ok(Log { path, file })
    }

    /// Appends one line, in one write.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).map_err(|error| {
            Problem::new(format!("cannot write an event as JSON: {error}"), "this is a bug; report it")
        })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| Problem::io("write", &self.path, &error))
    }

    /// Makes what was written survive a power cut; called before a checkpoint is written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Problem::io("sync", &self.path, &error))
    }
}

/// Returns the last held-out loss at or before `step`, and its step.
pub fn last_held_out(events: &[Event], step: u64) -> Option<(f64, u64)> {
    events.iter().rev().find_map(|event| match event {
        Event::Evaluation(scored) if scored.step <= step => Some((scored.loss, scored.step)),
        _ => None,
    })
}

/// Reads all events of a log, given the path of a run's folder or of the file. A torn last line is left out,
/// and so are events that this program does not know. Errors if any other line cannot be read.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    let bytes = fs::read(&path).map_err(|error| Problem::io("read", &path, &error))?;
    let mut events = Vec::new();
    for (index, line) in complete_lines(&bytes).enumerate() {
        let event = serde_json::from_slice(line).map_err(|error| not_an_event(&path, index, &error))?;
        check_schema(&path, &event)?;
        if event != Event::Unknown {
            events.push(event);
        }
    }
    Ok(events)
}

/// The log of a run that goes on.
#[derive(Debug, Default)]
pub struct History {
    /// All events that could be read.
    pub events: Vec<Event>,
    /// Sentences: what could not be read, and what follows from that.
    pub unreadable: Vec<String>,
}

/// Reads the log of a run that goes on, or begins where `has_checkpoint` is false. A line that is JSON but no
/// event that this program can read is set aside and named, since the run can go on without it. Errors if a
/// line is not JSON, which no version of Lingot has written.
pub fn history(folder: &Path, has_checkpoint: bool) -> Result<History> {
    let path = folder.join(FILE);
    let mut history = History::default();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if has_checkpoint {
                history.unreadable.push(format!(
                    "{} is missing: earlier held-out losses, costs and divisions of steps are not known",
                    path.display()
                ));
            }
            return Ok(history);
        }
        Err(error) => return Err(Problem::io("read", &path, &error)),
    };
    for (index, line) in complete_lines(&bytes).enumerate() {
        let value: Value =
            serde_json::from_slice(line).map_err(|error| not_an_event(&path, index, &error))?;
        match serde_json::from_value(value) {
            Ok(Event::Unknown) => {}
            Ok(event) => {
                check_schema(&path, &event)?;
                history.events.push(event);
            }
            Err(error) => history.unreadable.push(format!(
                "set aside line {} of {}, which is not an event: {error}; this run does not know \
                 what it says",
                index + 1,
                path.display()
            )),
        }
    }
    Ok(history)
}

/// Cuts a file of JSON Lines back to a step. Works on raw JSON, so that an event this program does not know
/// stays as it is.
pub(super) fn cut(path: &Path, resume_step: u64) -> Result<()> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Problem::io("read", path, &error)),
    };
    let mut kept = Vec::with_capacity(bytes.len());
    for (index, line) in complete_lines(&bytes).enumerate() {
        let value: Value = serde_json::from_slice(line).map_err(|error| not_an_event(path, index, &error))?;
        let step = value.get("step").and_then(Value::as_u64).unwrap_or(0);
        let ended = value.get("event").and_then(Value::as_str) == Some("end");
        if resume_step > 0 && step <= resume_step && !ended {
            kept.extend_from_slice(line);
            kept.push(b'\n');
        }
    }
    if kept == bytes {
        return Ok(());
    }
    let partial = path.with_extension("jsonl.partial");
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(&kept)?;
        file.sync_all()
    });
    written.map_err(|error| Problem::io("write", &partial, &error))?;
    fs::rename(&partial, path).map_err(|error| Problem::io("rename", &partial, &error))
}

/// A line counts once its newline is there.
fn complete_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    bytes[..end].split_inclusive(|&byte| byte == b'\n').map(|line| &line[..line.len() - 1])
}

fn check_schema(path: &Path, event: &Event) -> Result<()> {
    match event {
        Event::Start(start) if start.schema > SCHEMA => Err(Problem::new(
            format!(
                "{} is of schema {}, this Lingot reads up to schema {SCHEMA}",
                path.display(),
                start.schema
            ),
            "use the Lingot that wrote the run, or a newer one",
        )),
        _ => Ok(()),
    }
}

fn not_an_event(path: &Path, index: usize, error: &serde_json::Error) -> Problem {
    Problem::new(
        format!("line {} of {} is not an event: {error}", index + 1, path.display()),
        "remove the line, or move the file away to begin a new log",
    )
}
