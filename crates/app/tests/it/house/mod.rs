//! The rules of the house: who may import whom, what a crate never does, and how files are kept readable.
//!
//! Each rule is a function from a tree of sources to the places that break it. This tree has to have none;
//! `planted.rs` breaks each rule once in a copy, and the rule has to name the place.

mod layout;
mod planted;
mod purity;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

/// A tree of sources, with `ARCHITECTURE.md` and `crates` in it.
pub(crate) struct House {
    root: PathBuf,
}

/// A place that breaks a rule, and how.
pub(crate) type Broken = Vec<String>;

impl House {
    fn here() -> House {
        House { root: Path::new(env!("CARGO_MANIFEST_DIR")).join("../..") }
    }

    fn read(&self, path: &str) -> String {
        let path = self.root.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The names of all crates: the folders in `crates`.
    fn crates(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.root.join("crates"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Files below a folder whose name ends so, as paths from the root, sorted.
    fn files(&self, folder: &str, extension: &str) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.root.join(folder)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|found| found == extension) {
                    files.push(path.strip_prefix(&self.root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        files.sort();
        files
    }

    fn rust_files(&self) -> Vec<String> {
        self.files("crates", "rs")
    }
}

/// Finds the places of a tree that break a rule.
pub(crate) type Check = fn(&House) -> Broken;

/// Every rule with its name.
const RULES: [(&str, Check); 13] = [
    ("the arrows are exactly those of ARCHITECTURE.md", layout::arrows),
    ("every arrow of the picture points down", layout::picture),
    ("an op has one name on every floor", layout::op_names),
    ("unsafe code lives on the device floor only", purity::unsafe_code),
    ("the pure crates compute and do nothing else", purity::effects),
    ("the pure crates depend on nothing that does more", purity::dependencies),
    ("all output goes through one file", purity::output),
    ("every file opens with what it is for", text::headers),
    ("files have at most 400 lines", text::file_lengths),
    ("lines have at most 110 columns", text::line_lengths),
    ("functions have at most 70 lines, by clippy", text::function_lengths),
    ("every library crate denies missing documentation", text::missing_docs),
    ("no text names a file that is not there", text::dead_links),
];

#[test]
fn this_tree_breaks_no_rule() {
    let house = House::here();
    let mut broken = Vec::new();
    for (rule, check) in RULES {
        broken.extend(check(&house).into_iter().map(|place| format!("{rule}: {place}")));
    }
    assert!(broken.is_empty(), "{} places:\n{}", broken.len(), broken.join("\n"));
}
