//! The devices that the run's file lists now: whoever edits the list while the run goes on adds and removes devices.

use crate::config::{self, Resolved};
use lingot_spec::Result;
use lingot_spec::RunSpec;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The list, and what it was read from.
pub(crate) struct Roster {
    file: Option<(PathBuf, Vec<String>)>,
    seen: Option<Stamp>,
    list: Vec<String>,
}

/// What changes when a file is written.
type Stamp = (SystemTime, u64);

impl Roster {
    pub(crate) fn new(resolved: &Resolved) -> Roster {
        let file = resolved.file.clone();
        let seen = file.as_ref().and_then(|(path, _)| stamp(path));
        Roster { file, seen, list: resolved.run.devices.clone() }
    }

    /// The run as the file describes it now, where the list is another than before. A file that cannot be read as a run is an error once, and changes
    /// nothing; so does one that is away for a moment, as editors do it.
    pub(crate) fn changed(&mut self) -> Option<Result<RunSpec>> {
        let (path, overrides) = self.file.as_ref()?;
        let now = stamp(path)?;
        if self.seen == Some(now) {
            return None;
        }
        self.seen = Some(now);
        match config::load(path, overrides) {
            Err(error) => Some(Err(error)),
            Ok(read) if read.run.devices == self.list || read.run.devices.is_empty() => None,
            Ok(read) => {
                self.list.clone_from(&read.run.devices);
                Some(Ok(read.run))
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}
