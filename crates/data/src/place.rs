//! Bytes at a place of a file, read when they are wanted.
//!
//! A file that is mapped into memory and truncated meanwhile ends the process (SIGBUS). Here it is an error
//! like any other.

use std::fs::File;
use std::io;

/// Where bytes are read from.
pub(crate) enum Place<'a> {
    /// A file.
    File(&'a File),
    /// Bytes in memory.
    Memory(&'a [u8]),
}

impl Place<'_> {
    /// Number of bytes.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Place::File(file) => Ok(file.metadata()?.len()),
            Place::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `to` with the bytes from `at` on. Errors with `UnexpectedEof` if there are fewer.
    pub(crate) fn read(&self, at: u64, to: &mut [u8]) -> io::Result<()> {
        match self {
            Place::File(file) => read_exact_at(file, at, to),
            Place::Memory(bytes) => {
                let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
                let from = from.and_then(|from| from.get(..to.len()));
                to.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// Reads `count` little-endian numbers of `N` bytes each, from byte `at` on.
    pub(crate) fn numbers<const N: usize>(&self, at: u64, count: usize) -> io::Result<Vec<[u8; N]>> {
        let mut bytes = vec![0; N * count];
        self.read(at, &mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<N>();
        Ok(numbers.to_vec())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, to: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, at: u64, to: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < to.len() {
        match std::os::windows::fs::FileExt::seek_read(file, &mut to[done..], at + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    Ok(())
}
