//! A folder that is complete or not there: written under another name, synced, and moved into place.
//!
//! Where nothing is at the place, the folder is written beside it and renamed. Where an empty folder is
//! there, which may be a mount point, the current folder or a link, it is written inside and its files are
//! moved up.

use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Held locked by the process that writes; the system releases it when the process dies.
const LOCK: &str = ".lock";
/// Names of the files that are being moved up, so that a later attempt can remove them.
const MOVING: &str = ".moving";
const PARTIAL: &str = ".partial";

/// A folder that is being written.
pub(crate) struct Aside {
    folder: PathBuf,
    aside: PathBuf,
    is_inside: bool,
    /// The file that makes the folder complete; it is moved last.
    last: &'static str,
    _lock: File,
    is_committed: bool,
}

impl Aside {
    /// Begins to write `folder`, which must be absent or empty. What a killed process left of it is removed.
    pub(crate) fn begin(folder: &Path, last: &'static str) -> Result<Aside> {
        let folder = target(folder)?;
        let is_inside = match fs::metadata(&folder) {
            Ok(about) if about.is_dir() => true,
            Ok(_) => {
                return Err(Problem::new(
                    format!("{} is a file, where a folder of shards should be", folder.display()),
                    "choose another folder with `data.cache` or `--out`",
                )
                .of(ProblemKind::Input));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(Problem::io("read", &folder, &e)),
        };
        let aside = if is_inside { folder.join(PARTIAL) } else { beside(&folder) };
        if is_inside {
            remove_moved(&folder, &aside)?;
            refuse_occupied(&folder)?;
        }
        fs::create_dir_all(&aside).map_err(|e| Problem::io("create the folder", &aside, &e))?;
        let lock = lock(&aside, &folder)?;
        for entry in fs::read_dir(&aside).map_err(|e| Problem::io("list", &aside, &e))?.flatten() {
            if entry.file_name() != LOCK {
                remove(&entry.path())?;
            }
        }
        Ok(Aside { folder, aside, is_inside, last, _lock: lock, is_committed: false })
    }

    /// The folder to write into until it is complete.
    pub(crate) fn path(&self) -> &Path {
        &self.aside
    }

    /// Puts the folder in its place. Waits until all of it is on the disk.
    pub(crate) fn commit(mut self) -> Result<()> {
        let failed = |e| Problem::io("move into place the folder", &self.aside, &e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.aside).map_err(failed)?.flatten() {
            File::open(entry.path()).and_then(|file| file.sync_all()).map_err(failed)?;
            names.push(entry.file_name());
        }
        names.retain(|name| name != LOCK);
        names.sort_by_key(|name| name == self.last);
        if self.is_inside {
            let list: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            fs::write(self.aside.join(MOVING), list.join("\n")).map_err(failed)?;
            for name in &names {
                fs::rename(self.aside.join(name), self.folder.join(name)).map_err(failed)?;
            }
            sync_folder(&self.folder);
            fs::remove_dir_all(&self.aside).map_err(failed)?;
        } else {
            fs::remove_file(self.aside.join(LOCK)).map_err(failed)?;
            sync_folder(&self.aside);
            fs::rename(&self.aside, &self.folder).map_err(failed)?;
        }
        self.is_committed = true;
        sync_folder(self.folder.parent().unwrap_or(Path::new("")));
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_committed {
            // Best effort: what stays is removed by the next attempt.
            let _ = remove_moved(&self.folder, &self.aside);
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

/// The folder that a path means. A link that leads nowhere yet means the place it leads to.
fn target(folder: &Path) -> Result<PathBuf> {
    let is_link = fs::symlink_metadata(folder).is_ok_and(|about| about.is_symlink());
    if !is_link || folder.exists() {
        // Without a slash or a dot at its end, which a rename does not accept.
        return Ok(folder.components().collect());
    }
    let to = fs::read_link(folder).map_err(|e| Problem::io("follow the link", folder, &e))?;
    Ok(folder.parent().unwrap_or(Path::new("")).join(to))
}

fn beside(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(PARTIAL);
    folder.with_file_name(name)
}

fn refuse_occupied(folder: &Path) -> Result<()> {
    let mut entries = fs::read_dir(folder).map_err(|e| Problem::io("list", folder, &e))?.flatten();
    // A new file system has a folder of its own for what a repair finds.
    if entries.all(|entry| [OsStr::new(PARTIAL), OsStr::new("lost+found")].contains(&&*entry.file_name())) {
        return Ok(());
    }
    Err(Problem::new(
        format!("{} holds files, but no data.json: it was not written by Lingot", folder.display()),
        "choose another folder with `data.cache` or `--out`, or empty this one",
    )
    .of(ProblemKind::Input))
}

/// Removes the files that a killed process had moved up before it could move them all.
fn remove_moved(folder: &Path, aside: &Path) -> Result<()> {
    let Ok(list) = fs::read_to_string(aside.join(MOVING)) else { return Ok(()) };
    for name in list.lines() {
        let path = folder.join(name);
        if path.is_file() {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|e| Problem::io("remove", path, &e))
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
    // Not every system can; then the rename is as durable as the system makes it.
    let _ = File::open(path).and_then(|folder| folder.sync_all());
}
