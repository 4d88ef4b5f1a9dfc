//! Names and folders of checkpoints on disk.

use lingot_formats::disk::{self, Call};
use lingot_spec::problem::{Problem, Result};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The checkpoint's folder inside `checkpoints`.
pub(crate) fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// `step-00000100` and `partial` make `step-00000100.partial`.
pub(crate) fn beside(place: &Path, suffix: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    place.with_file_name(name)
}

/// Removes a folder, if it is there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match disk::call(Call::Remove, folder, || fs::remove_dir_all(folder)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Problem::io("remove", folder, &error)),
        _ => Ok(()),
    }
}

/// Moves a folder; `verb` completes "cannot ..." where that fails.
pub(crate) fn rename(verb: &str, from: &Path, to: &Path) -> Result<()> {
    let moved = disk::call(Call::Rename, from, || fs::rename(from, to));
    moved.map_err(|error| Problem::io(verb, from, &error))
}

/// Whether something is there. Errors if that cannot be told.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    match disk::call(Call::Open, path, || fs::metadata(path)) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(Problem::io("read", path, &error)),
    }
}

/// Makes the names inside a folder survive a power cut; only Unix lets a folder be synced.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = disk::call(Call::Sync, folder, || File::open(folder)?.sync_all());
        synced.map_err(|error| Problem::io("sync", folder, &error))?;
    }
    Ok(())
}
