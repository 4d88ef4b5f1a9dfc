//! The house: who may import whom, where unsafe code may live, and that every file says what it is for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate, and exactly the ones it imports. The picture is in ARCHITECTURE.md.
const HOUSE: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("device", &["spec"]),
    ("model", &["spec", "device"]),
    ("data", &["spec"]),
    ("sync", &["spec"]),
    ("formats", &["spec"]),
    ("train", &["spec", "device", "model", "data", "sync", "formats"]),
    ("plan", &["spec"]),
    ("align", &["spec", "device", "model", "train"]),
    ("measure", &["spec", "device", "model", "sync", "train"]),
    ("app", &["spec", "device", "model", "data", "formats", "train", "plan", "align", "measure"]),
];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The crates of ours that a manifest depends on, in any section.
fn imports_of(room: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(crates().join(room).join("Cargo.toml")).unwrap();
    manifest
        .lines()
        .filter_map(|line| line.strip_prefix("lingot-"))
        .filter_map(|rest| rest.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn every_arrow_is_in_the_picture() {
    let rooms: BTreeSet<String> = fs::read_dir(crates())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let drawn: BTreeSet<String> = HOUSE.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(rooms, drawn, "a crate is missing from the picture");
    for (room, may_import) in HOUSE {
        let drawn: BTreeSet<String> = may_import.iter().map(|import| (*import).to_owned()).collect();
        assert_eq!(imports_of(room), drawn, "the arrows of {room} are not those of the picture");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in rust_files(&crates()) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with what it is for", path.display());
    }
}

#[test]
fn unsafe_code_lives_on_the_device_floor_only() {
    for (room, _) in HOUSE.iter().filter(|(room, _)| *room != "device") {
        for path in rust_files(&crates().join(room)) {
            let text = fs::read_to_string(&path).unwrap();
            let words =
                ["allow(unsafe_code)".to_owned(), format!("{} {{", "unsafe"), format!("{} fn", "unsafe")];
            for word in words.iter().filter(|_| !path.ends_with("it/house.rs")) {
                assert!(!text.contains(word.as_str()), "{} contains `{word}`", path.display());
            }
        }
    }
}

#[test]
fn an_op_has_one_name_on_every_floor() {
    let device = crates().join("device/src");
    let names = |folder: &str| -> BTreeSet<String> {
        rust_files(&device.join(folder))
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    let ops = names("op");
    for floor in ["reference", "cpu", "torch"] {
        let found = names(floor);
        for op in ops.iter().filter(|name| !["mod", "door", "describe"].contains(&name.as_str())) {
            assert!(found.contains(op), "{floor}/ has no file for `{op}`");
        }
    }
}

#[test]
fn the_floor_of_plain_data_does_no_input_or_output() {
    for path in rust_files(&crates().join("spec/src")) {
        let text = fs::read_to_string(&path).unwrap();
        for word in ["std::fs", "std::net", "std::thread", "Instant::now", "SystemTime::now"] {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}
