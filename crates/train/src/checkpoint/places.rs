//! Names and folders of checkpoints on disk.

use lingot_spec::problem::{Problem, Result};
use std::fs::{self, File};
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
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Problem::io("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

/// Makes the names inside a folder survive a power cut; only Unix lets a folder be synced.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|file| file.sync_all());
        synced.map_err(|error| Problem::io("sync", folder, &error))?;
    }
    Ok(())
}
