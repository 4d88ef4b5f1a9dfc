//! How files are kept readable: what opens them, how long they and their lines and functions are.

use super::{Broken, House};
use std::fs;
use std::path::Path;

const MOST_LINES: usize = 400;
const MOST_COLUMNS: usize = 110;
const MOST_FUNCTION_LINES: &str = "too-many-lines-threshold = 70";

/// Longer files, which are tables.
const TABLES: [&str; 0] = [];

/// Places that have yet to be brought under the limit of columns. Nothing may be added here or below.
const WIDE: [&str; 3] = ["crates/data/", "crates/formats/", "docs/hugging-face.md"];

/// Places that have yet to be brought under the limit of lines.
const LONG: [&str; 2] = ["crates/spec/src/event.rs", "crates/spec/src/run.rs"];

fn is_among(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// Markdown in the root and in the folders for people; what a program has written is left out.
fn markdown(house: &House) -> Vec<String> {
    let root =
        fs::read_dir(&house.root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let root = root.filter(|name| name.ends_with(".md"));
    root.chain(["docs", "lab", "scripts"].iter().flat_map(|folder| house.files(folder, "md"))).collect()
}

/// Rust files that do not open with what they are for.
pub(super) fn headers(house: &House) -> Broken {
    house.rust_files().into_iter().filter(|path| !house.read(path).starts_with("//! ")).collect()
}

/// Files with too many lines.
pub(super) fn file_lengths(house: &House) -> Broken {
    let lines = |path: &String| house.read(path).lines().count();
    let files = house.rust_files().into_iter().filter(|path| !TABLES.contains(&path.as_str()));
    let long = files.filter(|path| !is_among(path, &LONG)).map(|path| (lines(&path), path));
    long.filter(|(lines, _)| *lines > MOST_LINES).map(|(lines, path)| format!("{path} has {lines}")).collect()
}

/// Lines of code and prose that are too wide. A row of a Markdown table cannot be broken.
pub(super) fn line_lengths(house: &House) -> Broken {
    let mut broken = Vec::new();
    let scripts = ["sh", "py"].iter().flat_map(|extension| house.files("scripts", extension));
    let all = house.rust_files().into_iter().chain(markdown(house)).chain(scripts);
    for path in all.filter(|path| !is_among(path, &WIDE)) {
        let is_markdown = path.ends_with(".md");
        for (index, line) in house.read(&path).lines().enumerate() {
            let columns = line.chars().count();
            if columns > MOST_COLUMNS && !(is_markdown && line.starts_with('|')) {
                broken.push(format!("{path}:{} has {columns}", index + 1));
            }
        }
    }
    broken
}

/// What would keep clippy from refusing long functions.
pub(super) fn function_lengths(house: &House) -> Broken {
    let mut broken = Vec::new();
    if !house.read("clippy.toml").lines().any(|line| line == MOST_FUNCTION_LINES) {
        broken.push(format!("clippy.toml does not say {MOST_FUNCTION_LINES}"));
    }
    if !house.read("Cargo.toml").contains("\ntoo_many_lines = ") {
        broken.push("Cargo.toml does not ask for too_many_lines".into());
    }
    for room in house.crates() {
        if !house.read(&format!("crates/{room}/Cargo.toml")).contains("[lints]\nworkspace = true\n") {
            broken.push(format!("crates/{room} does not take the lints of the workspace"));
        }
    }
    // A table may be long; it says so.
    let lint = concat!("clippy::", "too_many_lines");
    let is_lax = |line: &str| line.contains(lint) && !line.ends_with(", reason = \"a table\")]");
    broken.extend(house.rust_files().into_iter().filter(|path| house.read(path).lines().any(is_lax)));
    broken
}

/// Library crates that may have public items without documentation.
pub(super) fn missing_docs(house: &House) -> Broken {
    let libraries = house.crates().into_iter().map(|room| format!("crates/{room}/src/lib.rs"));
    let here = libraries.filter(|path| house.root.join(path).exists());
    let lax = here.filter(|path| !house.read(path).contains("\n#![deny(missing_docs)]\n"));
    lax.collect()
}

/// Links of Markdown files to files of this tree that are not there.
pub(super) fn dead_links(house: &House) -> Broken {
    let mut broken = Vec::new();
    for path in markdown(house) {
        let text = house.read(&path);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let place = house.root.join(&path).parent().unwrap_or(Path::new("")).join(file);
            if !file.is_empty() && !file.contains("://") && !place.exists() {
                broken.push(format!("{path} links to {link}"));
            }
        }
    }
    broken
}
