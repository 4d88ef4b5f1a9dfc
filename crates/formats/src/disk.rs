//! Calls to the file system that a run must survive, each at one place, so that tests can make them fail.
//!
//! A disk that fills up, fails or is not mounted cannot be had in a test without rights that tests lack. So a
//! test plans faults for a folder of its own; without any, a call costs one look at a flag.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the file system is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Make a file or a folder.
    Create,
    /// Open a file or a folder that is there.
    Open,
    /// Read from a file, or list a folder.
    Read,
    /// Write to a file.
    Write,
    /// Wait until a file or a folder is on the disk.
    Sync,
    /// Move a file or a folder.
    Rename,
    /// Remove a file or a folder.
    Remove,
}

/// Calls that are to fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which kind of call.
    pub call: Call,
    /// On paths that contain this text.
    pub path: String,
    /// The system's number of the error, such as 5 for an error of the device, 28 for a full disk.
    pub number: i32,
    /// How many such calls succeed before the first that fails.
    pub after: u64,
    /// How many fail; then they succeed again.
    pub times: u64,
}

/// Faults that are planned until this is dropped.
#[derive(Debug)]
pub struct Planned {
    folder: PathBuf,
}

static ARE_PLANNED: AtomicBool = AtomicBool::new(false);
static FAULTS: Mutex<Vec<(PathBuf, Fault)>> = Mutex::new(Vec::new());

/// Plans faults of calls below `folder`, for a test.
pub fn plan(folder: &Path, faults: impl IntoIterator<Item = Fault>) -> Planned {
    all().extend(faults.into_iter().map(|fault| (folder.to_owned(), fault)));
    ARE_PLANNED.store(true, Ordering::Relaxed);
    Planned { folder: folder.to_owned() }
}

impl Planned {
    /// How many calls have yet to fail.
    pub fn left(&self) -> u64 {
        all().iter().filter(|(folder, _)| *folder == self.folder).map(|(_, fault)| fault.times).sum()
    }
}

impl Drop for Planned {
    fn drop(&mut self) {
        all().retain(|(folder, _)| *folder != self.folder);
    }
}

/// Does `work`, which makes a call on `path`, unless a test has planned that it fails.
pub fn call<T>(call: Call, path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if ARE_PLANNED.load(Ordering::Relaxed) {
        strike(call, path)?;
    }
    work()
}

fn strike(call: Call, path: &Path) -> io::Result<()> {
    for (folder, fault) in all().iter_mut() {
        let is_meant = fault.call == call
            && path.starts_with(folder)
            && path.to_string_lossy().contains(&fault.path)
            && fault.times > 0;
        if is_meant && fault.after > 0 {
            fault.after -= 1;
        } else if is_meant {
            fault.times -= 1;
            return Err(io::Error::from_raw_os_error(fault.number));
        }
    }
    Ok(())
}

fn all() -> MutexGuard<'static, Vec<(PathBuf, Fault)>> {
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner)
}
