//! The devices that the run's file lists now. Editing the list adds and removes devices while the run goes
//! on.

use super::{Resolved, load};
use lingot_spec::problem::Result;
use lingot_spec::run::RunSpec;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The list, and what it was read from.
pub(crate) struct Roster {
    source: Option<Source>,
    seen: Option<Stamp>,
    list: Vec<String>,
}

/// A run's file, and what overrides it.
struct Source {
    path: PathBuf,
    overrides: Vec<String>,
}

/// What changes when a file is written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
}

impl Roster {
    /// The list of a run as it began.
    pub(crate) fn new(resolved: &Resolved) -> Roster {
        let source = resolved.file.clone().map(|(path, overrides)| Source { path, overrides });
        let seen = source.as_ref().and_then(|source| stamp(&source.path));
        Roster { source, seen, list: resolved.run.devices.clone() }
    }

    /// Returns the run as the file describes it now, where its list is another than before. A file that
    /// cannot be read as a run is an error once and changes nothing; one that is away for a moment, as while
    /// an editor saves it, is ignored.
    pub(crate) fn changed(&mut self) -> Option<Result<RunSpec>> {
        let source = self.source.as_ref()?;
        let now = stamp(&source.path)?;
        if self.seen == Some(now) {
            return None;
        }
        self.seen = Some(now);
        match load(&source.path, &source.overrides) {
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
    Some(Stamp { modified: found.modified().ok()?, bytes: found.len() })
}
