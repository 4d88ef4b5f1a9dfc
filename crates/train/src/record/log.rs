//! `run.jsonl`: one line per event, cut back when a run is resumed.

use lingot_formats::disk::{self, Call};
use lingot_spec::event::{Event, SCHEMA};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file's name inside a run's folder.
pub const FILE: &str = "run.jsonl";

/// The file of lines that were set aside because they are not JSON.
pub const UNREADABLE: &str = "run.jsonl.unreadable";

/// Lines that cannot be read are named one by one up to this many.
const MOST_NAMED: usize = 3;

/// The log of a running run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    /// Bytes of all whole lines. What a failed write left behind them is cut off before the next.
    bytes: u64,
}

impl Log {
    /// Opens `<folder>/run.jsonl` for appending, as it was when `resume_step` steps had been taken: later
    /// lines, an earlier end and a torn last line are cut off in one rename. From step 0 the log begins anew.
    /// Lines that are not JSON are moved to [`UNREADABLE`].
    pub fn open(folder: &Path, resume_step: u64) -> Result<Log> {
        fs::create_dir_all(folder).map_err(|error| Problem::io("make the run folder", folder, &error))?;
        let path = folder.join(FILE);
        cut(&path, resume_step)?;
        let failed = |error: std::io::Error| Problem::io("open", &path, &error);
        let file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Log { path, file, bytes })
    }

    /// Appends one line, in one write. A line that cannot be written leaves nothing behind, so that it may be
    /// tried again.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event)
            .map_err(|error| Problem::bug(format!("cannot write an event as JSON: {error}")))?;
        line.push(b'\n');
        let Log { path, file, bytes } = self;
        let written = disk::call(Call::Write, path, || file.write_all(&line));
        match written {
            Ok(()) => *bytes += line.len() as u64,
            Err(_) => drop(file.set_len(*bytes)),
        }
        written.map_err(|error| Problem::io("write", path, &error))
    }

    /// Makes what was written survive a power cut; called before a checkpoint is written.
    pub fn sync(&self) -> Result<()> {
        let synced = disk::call(Call::Sync, &self.path, || self.file.sync_data());
        synced.map_err(|error| Problem::io("sync", &self.path, &error))
    }
}

/// Moves the log of a run aside, whose checkpoints are gone, so that the run can begin anew without losing
/// it. Returns its new path.
pub fn set_aside(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(FILE);
    let free = (1_u32..).map(|number| folder.join(format!("{FILE}.{number}"))).find(|path| !path.exists());
    let aside = free.unwrap_or_else(|| folder.join(format!("{FILE}.0")));
    fs::rename(&path, &aside).map_err(|error| Problem::io("move aside", &path, &error))?;
    Ok(aside)
}

/// Returns the last held-out loss at or before `step`, and its step.
pub fn last_held_out(events: &[Event], step: u64) -> Option<(f64, u64)> {
    events.iter().rev().find_map(|event| match event {
        Event::Evaluation(scored) if scored.step <= step => Some((scored.loss, scored.step)),
        _ => None,
    })
}

/// A log that was read.
#[derive(Debug, Default)]
pub struct History {
    /// All events that could be read.
    pub events: Vec<Event>,
    /// Sentences: what could not be read, and what follows from that.
    pub unreadable: Vec<String>,
}

/// Reads all events of a log, as `read_all` does, and leaves out lines that cannot be read.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    Ok(read_all(path)?.events)
}

/// Reads a log, given the path of a run's folder or of the file. A torn last line is left out, and so are
/// events that this program does not know. Other lines that cannot be read, such as those that a disk has
/// damaged, are set aside and named. Errors if no line can be read: then the file is something else.
pub fn read_all(path: &Path) -> Result<History> {
    let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    let bytes = fs::read(&path).map_err(|error| Problem::io("read", &path, &error))?;
    let (history, first) = parse(&path, &bytes)?;
    match first.filter(|_| history.events.is_empty()) {
        None => Ok(history),
        Some(problem) => Err(Problem::new(
            format!("{problem}, and no other line is one either"),
            "name the folder of a run, or the run.jsonl in it",
        )
        .of(ProblemKind::Damaged)),
    }
}

/// Reads the log of a run that goes on, or begins where `has_checkpoint` is false. Lines that cannot be read
/// are set aside and named: the run can go on without them.
pub fn history(folder: &Path, has_checkpoint: bool) -> Result<History> {
    let path = folder.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(parse(&path, &bytes)?.0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let missing = format!(
                "{} is missing: earlier held-out losses, costs and divisions of steps are not known",
                path.display()
            );
            let unreadable = if has_checkpoint { vec![missing] } else { Vec::new() };
            Ok(History { events: Vec::new(), unreadable })
        }
        Err(error) => Err(Problem::io("read", &path, &error)),
    }
}

/// The events of a log, and what is wrong with the first line that is none.
fn parse(path: &Path, bytes: &[u8]) -> Result<(History, Option<String>)> {
    let (mut history, mut first, mut more) = (History::default(), None, 0);
    for (index, line) in complete_lines(bytes).enumerate() {
        match serde_json::from_slice(line) {
            Ok(Event::Unknown) => {}
            Ok(event) => {
                check_schema(path, &event)?;
                history.events.push(event);
            }
            Err(error) if history.unreadable.len() < MOST_NAMED => {
                let line = format!("line {} of {}", index + 1, path.display());
                history.unreadable.push(format!(
                    "set aside {line}, which is not an event: {error}; what it said is not known"
                ));
                first.get_or_insert(format!("{line} is not an event: {error}"));
            }
            Err(_) => more += 1,
        }
    }
    if more > 0 {
        history.unreadable.push(format!("{more} more lines of {} are no events", path.display()));
    }
    Ok((history, first))
}

/// Cuts a log back to a step. Works on raw JSON, so that an event this program does not know stays as it is.
fn cut(path: &Path, resume_step: u64) -> Result<()> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Problem::io("read", path, &error)),
    };
    let (mut kept, mut unreadable) = (Vec::with_capacity(bytes.len()), Vec::new());
    for line in complete_lines(&bytes) {
        let to = match serde_json::from_slice::<Value>(line) {
            Err(_) => &mut unreadable,
            Ok(value) => {
                let step = value.get("step").and_then(Value::as_u64).unwrap_or(0);
                let ended = value.get("event").and_then(Value::as_str) == Some("end");
                if resume_step == 0 || step > resume_step || ended {
                    continue;
                }
                &mut kept
            }
        };
        to.extend_from_slice(line);
        to.push(b'\n');
    }
    if kept == bytes {
        return Ok(());
    }
    if !unreadable.is_empty() {
        let aside = path.with_file_name(UNREADABLE);
        let written = OpenOptions::new().append(true).create(true).open(&aside);
        let written = written.and_then(|mut file| file.write_all(&unreadable));
        written.map_err(|error| Problem::io("write", &aside, &error))?;
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
