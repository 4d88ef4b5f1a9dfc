//! Files that a command will write when its work is done: tried before the work.

use crate::failure::{Failure, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Errors if a file could not be written at `path`. What is there stays as it is.
pub fn check_file(path: &Path) -> Result<()> {
    if path.is_dir() {
        let problem = format!("{} is a folder, where a file should be written", path.display());
        return Err(Failure::input(problem, format!("name a file in it: {}/result", path.display())));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let trial = trial_in(folder);
    fs::write(&trial, "").map_err(|error| Failure::io("write into", folder, &error))?;
    fs::remove_file(&trial).map_err(|error| Failure::io("remove", &trial, &error))
}

fn trial_in(folder: &Path) -> PathBuf {
    folder.join(format!(".lingot-{}.partial", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_takes_no_file_is_told_at_once_and_one_that_does_is_left_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let kept = place.path().join("kept");
        fs::write(&kept, "kept").unwrap();
        check_file(&kept).unwrap();
        check_file(&place.path().join("new")).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
        assert!(check_file(place.path()).unwrap_err().problem.contains("is a folder"));
        let absent = check_file(&place.path().join("no/such/file")).unwrap_err();
        assert!(absent.problem.contains("no/such"), "{}", absent.problem);
    }
}
