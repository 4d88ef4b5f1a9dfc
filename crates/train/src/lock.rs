//! One process per run folder, by a lock that the operating system drops when the process ends, however it
//! ends.

use lingot_spec::problem::{Problem, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Held for as long as the run writes its folder.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Closing the file releases the lock.
    _file: File,
}

/// Locks `<folder>/lock`, making the folder if it is missing. The file holds the owner's process id.
pub(crate) fn acquire(folder: &Path) -> Result<Lock> {
    std::fs::create_dir_all(folder).map_err(|error| Problem::io("make the run folder", folder, &error))?;
    let path = folder.join("lock");
    // Not truncated on opening: until the lock is ours, the process id inside is another's.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| Problem::io("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(taken(folder, &mut file)),
        Err(TryLockError::Error(error)) => return Err(Problem::io("lock", &path, &error)),
    }
    let id = std::process::id();
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{id}"))
        .map_err(|error| Problem::io("write", &path, &error))?;
    Ok(Lock { _file: file })
}

fn taken(folder: &Path, file: &mut File) -> Problem {
    let mut text = String::new();
    let owner = match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "another process".into(),
    };
    Problem::new(
        format!("{owner} is already running in {}", folder.display()),
        "wait for it or stop it; to run beside it, give this run another `folder`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_the_process_id_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let lock = acquire(folder.path()).unwrap();
        let error = acquire(folder.path()).unwrap_err();
        assert!(error.problem.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        acquire(folder.path()).unwrap();
    }
}
