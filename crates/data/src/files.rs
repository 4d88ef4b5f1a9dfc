//! Files that are whole or not there: hashed while written, synced, and renamed as one folder.

use lingot_spec::problem::{Problem, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// What a file was when it was written or read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// As the user wrote it, or the name inside the folder.
    pub path: String,
    pub bytes: u64,
    /// BLAKE3, in hexadecimal.
    pub hash: String,
    /// Nanoseconds since 1970; 0 when unknown.
    #[serde(default)]
    pub modified_ns: u64,
}

impl FileRecord {
    /// Reads a file through; `told` is called with the bytes read.
    pub(crate) fn of(path: &Path, told: &mut dyn FnMut(u64)) -> Result<FileRecord> {
        let failed = |e| Problem::io("read", path, &e);
        let mut file = File::open(path).map_err(failed)?;
        let modified_ns = modified_ns(&file.metadata().map_err(failed)?);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                let hash = hasher.finalize().to_hex().to_string();
                return Ok(FileRecord { path: path.to_string_lossy().into(), bytes, hash, modified_ns });
            }
            hasher.update(&buffer[..read]);
            bytes += read as u64;
            told(read as u64);
        }
    }
}

pub(crate) fn modified_ns(about: &fs::Metadata) -> u64 {
    let since = about.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// A file that is being written, and its hash.
pub(crate) struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl HashedFile {
    pub(crate) fn create(path: &Path) -> Result<HashedFile> {
        let file = File::create(path).map_err(|e| Problem::io("create", path, &e))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(HashedFile { path: path.into(), file, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| Problem::io("write", &self.path, &e))
    }

    /// On the disk, not only on its way.
    pub(crate) fn finish(mut self) -> Result<FileRecord> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|e| Problem::io("write", &self.path, &e))?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into();
        let hash = self.hasher.finalize().to_hex().to_string();
        Ok(FileRecord { path: name, bytes: self.bytes, hash, modified_ns: 0 })
    }
}

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
