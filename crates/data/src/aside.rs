//! A folder that is complete or not there: written under another name, synced, and renamed.

use lingot_spec::problem::{Problem, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// A folder that is written under another name and appears under its own when complete.
pub(crate) struct Aside {
    folder: PathBuf,
    aside: PathBuf,
    /// Held as long as this process writes; the system lets go of it when the process dies.
    _lock: File,
    committed: bool,
}

const LOCK: &str = ".lock";

impl Aside {
    pub(crate) fn begin(folder: &Path) -> Result<Aside> {
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Problem::new(
                format!("{} holds files, but no data.json: it was not written by Lingot", folder.display()),
                "choose another folder with `data.cache`, or empty this one",
            ));
        }
        let mut name = folder.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let aside = folder.with_file_name(name);
        fs::create_dir_all(&aside).map_err(|e| Problem::io("create the folder", &aside, &e))?;
        let lock = lock(&aside, folder)?;
        // What a process left that was killed.
        for entry in fs::read_dir(&aside).map_err(|e| Problem::io("list", &aside, &e))?.flatten() {
            if entry.file_name() != LOCK {
                let path = entry.path();
                fs::remove_file(&path).map_err(|e| Problem::io("remove", &path, &e))?;
            }
        }
        Ok(Aside { folder: folder.into(), aside, _lock: lock, committed: false })
    }

    /// Where to write for now.
    pub(crate) fn path(&self) -> &Path {
        &self.aside
    }

    pub(crate) fn commit(mut self) -> Result<()> {
        let failed = |e| Problem::io("rename into place the folder", &self.aside, &e);
        for entry in fs::read_dir(&self.aside).map_err(failed)?.flatten() {
            File::open(entry.path()).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        fs::remove_file(self.aside.join(LOCK)).map_err(failed)?;
        sync_folder(&self.aside);
        // An empty folder may stand in the place; one that holds something was refused at the beginning.
        let _ = fs::remove_dir(&self.folder);
        fs::rename(&self.aside, &self.folder).map_err(failed)?;
        self.committed = true;
        sync_folder(self.folder.parent().unwrap_or(Path::new("")));
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: what stays is swept away by the next attempt.
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

fn lock(aside: &Path, folder: &Path) -> Result<File> {
    let path = aside.join(LOCK);
    let file = File::create(&path).map_err(|e| Problem::io("create", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Problem::new(
            format!("another process is preparing {}", folder.display()),
            "wait until it has finished, or give this run a folder of its own with `data.cache`",
        )),
        Err(TryLockError::Error(e)) => Err(Problem::io("lock", &path, &e)),
    }
}

fn sync_folder(path: &Path) {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // Not every system can; then the rename is as durable as it makes it.
    let _ = File::open(path).and_then(|folder| folder.sync_all());
}
