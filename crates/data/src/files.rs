//! Files with their hashes: what a file was when it was read, and files that are hashed while they are
//! written.

use lingot_spec::problem::{Problem, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// A file at the time it was written or read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// As the user wrote it, or the name inside the folder.
    pub path: String,
    pub bytes: u64,
    /// BLAKE3, in hexadecimal.
    pub hash: String,
    /// Time of the last change, in nanoseconds since 1970; 0 when unknown.
    #[serde(default)]
    pub modified_ns: u64,
}

impl FileRecord {
    /// Reads a file to its end; `report` is called with the bytes of each part.
    pub(crate) fn of(path: &Path, report: &mut dyn FnMut(u64)) -> Result<FileRecord> {
        let mut hasher = blake3::Hasher::new();
        let (bytes, modified_ns) = read_through(path, &mut |part| {
            hasher.update(part);
            report(part.len() as u64);
            Ok(true)
        })?;
        let hash = hasher.finalize().to_hex().to_string();
        Ok(FileRecord { path: path.to_string_lossy().into(), bytes, hash, modified_ns })
    }

    /// Reads a file to its end, unless `is_abandoned` meanwhile.
    pub(crate) fn unless(path: &Path, is_abandoned: &dyn Fn() -> bool) -> Result<Option<FileRecord>> {
        let mut hasher = blake3::Hasher::new();
        let mut is_whole = true;
        let (bytes, modified_ns) = read_through(path, &mut |part| {
            is_whole &= !is_abandoned();
            if is_whole {
                hasher.update(part);
            }
            Ok(is_whole)
        })?;
        let hash = hasher.finalize().to_hex().to_string();
        let path = path.to_string_lossy().into();
        Ok(is_whole.then_some(FileRecord { path, bytes, hash, modified_ns }))
    }

    /// Reads a file that can be read only once, and writes a copy of it.
    pub(crate) fn copied(path: &Path, copy: &Path, report: &mut dyn FnMut(u64)) -> Result<FileRecord> {
        let mut written = HashedFile::create(copy)?;
        read_through(path, &mut |part| {
            report(part.len() as u64);
            written.write(part).map(|()| true)
        })?;
        Ok(FileRecord { path: path.to_string_lossy().into(), ..written.finish()? })
    }
}

/// The BLAKE3 of a file, in hexadecimal, as checkpoints and data.json have it.
pub fn hash_of(path: &Path) -> Result<String> {
    Ok(FileRecord::of(path, &mut |_| ())?.hash)
}

/// Reads a file part by part, while `each` asks for more; returns the bytes read and the time of the file's
/// last change.
fn read_through(path: &Path, each: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<(u64, u64)> {
    let failed = |e| Problem::io("read", path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let modified_ns = modified_ns(&file.metadata().map_err(failed)?);
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok((bytes, modified_ns));
        }
        bytes += read as u64;
        if !each(&buffer[..read])? {
            return Ok((bytes, modified_ns));
        }
    }
}

/// Time of the last change, in nanoseconds since 1970; 0 when unknown.
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

    /// Waits until the file is on the disk, and returns its record.
    pub(crate) fn finish(mut self) -> Result<FileRecord> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|e| Problem::io("write", &self.path, &e))?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into();
        let hash = self.hasher.finalize().to_hex().to_string();
        Ok(FileRecord { path: name, bytes: self.bytes, hash, modified_ns: 0 })
    }
}
