//! A folder that appears complete or not at all.
//!
//! Where nothing is at the place, the folder is written beside it and renamed. Where an empty folder is
//! there, which may be a mount point, the current folder or a link, it is written inside and its files are
//! moved up.

use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const PARTIAL: &str = ".partial";
const CONTENT: &str = "content";

/// A folder that is being written. Dropped before it is committed, it leaves nothing.
pub struct NewFolder {
    folder: PathBuf,
    partial: PathBuf,
    content: PathBuf,
    is_inside: bool,
}

impl NewFolder {
    /// Begins to write `folder`, which must be absent or empty.
    pub fn begin(folder: &Path) -> Result<NewFolder> {
        let place = place_of(folder)?;
        let is_inside = match fs::metadata(&place) {
            Ok(about) if about.is_dir() => true,
            Ok(_) => return Err(occupied(folder, "and is a file")),
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(Problem::io("read", folder, &e)),
        };
        let partial = if is_inside { place.join(PARTIAL) } else { beside(&place) };
        if is_inside && !is_empty(&place).map_err(|e| Problem::io("list", folder, &e))? {
            return Err(occupied(folder, "and is not empty"));
        }
        // What a process left that was killed.
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(|e| Problem::io("remove", &partial, &e))?;
        }
        fs::create_dir_all(&partial).map_err(|e| Problem::io("create", &partial, &e))?;
        let content = partial.join(CONTENT);
        Ok(NewFolder { folder: place, partial, content, is_inside })
    }

    /// The folder to write; it does not exist yet.
    pub fn path(&self) -> &Path {
        &self.content
    }

    /// Puts the folder in its place, the file `last` last. Waits until all of it is on the disk.
    pub fn commit(self, last: &str) -> Result<()> {
        self.put_in_place(last).map_err(|e| Problem::io("create", &self.folder, &e))
    }

    fn put_in_place(&self, last: &str) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.content)? {
            let entry = entry?;
            File::open(entry.path())?.sync_all()?;
            names.push(entry.file_name());
        }
        if self.is_inside {
            names.sort_by_key(|name| name == last);
            for name in names {
                fs::rename(self.content.join(&name), self.folder.join(&name))?;
            }
            return File::open(&self.folder)?.sync_all();
        }
        fs::rename(&self.content, &self.folder)?;
        match self.folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // Best effort: what stays is removed by the next attempt.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// The place that a path means. A link that leads nowhere yet means the place it leads to.
fn place_of(folder: &Path) -> Result<PathBuf> {
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

/// Whether a folder holds nothing but what an interrupted attempt left, or a new file system begins with.
fn is_empty(folder: &Path) -> io::Result<bool> {
    let own = [OsStr::new(PARTIAL), OsStr::new("lost+found")];
    Ok(fs::read_dir(folder)?.flatten().all(|entry| own.contains(&&*entry.file_name())))
}

fn occupied(folder: &Path, how: &str) -> Problem {
    Problem::new(
        format!("{} exists already {how}", folder.display()),
        "name a folder that does not exist or is empty",
    )
    .of(ProblemKind::Input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path) -> Result<()> {
        let new = NewFolder::begin(folder)?;
        fs::create_dir(new.path()).unwrap();
        fs::write(new.path().join("a"), "1").unwrap();
        new.commit("a")
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_folder_is_written_wherever_it_may_lie() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for name in ["absent", "deep/down", "slash/", "dot/.", "empty", "empty-too/.", "interrupted"] {
            if name.starts_with('e') {
                fs::create_dir_all(at(name.trim_end_matches("/."))).unwrap();
            }
            if name == "interrupted" {
                fs::create_dir_all(at("interrupted/.partial/content")).unwrap();
                fs::write(at("interrupted/.partial/content/b"), "half").unwrap();
            }
            write(&at(name)).unwrap();
            assert_eq!(names(&at(name)), ["a"], "{name}");
        }
        #[cfg(unix)]
        for (link, to) in [("to-empty", "target"), ("to-nothing", "later")] {
            if link == "to-empty" {
                fs::create_dir(at(to)).unwrap();
            }
            std::os::unix::fs::symlink(to, at(link)).unwrap();
            write(&at(link)).unwrap();
            assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink());
            assert_eq!(names(&at(to)), ["a"], "{link}");
        }
        assert!(names(home.path()).iter().all(|name| !name.ends_with(PARTIAL)));
    }

    #[test]
    fn a_place_that_is_taken_is_refused_and_an_unfinished_folder_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        for place in [home.path().to_path_buf(), home.path().join("file")] {
            let error = write(&place).unwrap_err();
            assert!(error.problem.contains("exists already") && error.kind == ProblemKind::Input, "{error}");
        }
        let new = NewFolder::begin(&home.path().join("x")).unwrap();
        fs::create_dir(new.path()).unwrap();
        drop(new);
        assert_eq!(names(home.path()), ["file"]);
    }
}
