//! What crates never do: unsafe code, input and output, clocks, threads, randomness.

use super::{Broken, House};

/// Crates that only compute, and all that they may depend on outside of this house.
const PURE: [(&str, &[&str]); 3] =
    [("spec", &["serde"]), ("plan", &["serde", "strsim", "toml"]), ("sync", &[])];

/// Modules of `std` that act on the world or ask it something.
const MODULES: [&str; 6] = ["fs", "net", "thread", "env", "process", "os"];

/// Names that ask the clock, the console or chance, wherever they come from.
const NAMES: [&str; 10] = [
    "Instant",
    "SystemTime",
    "RandomState",
    "stdin",
    "stdout",
    "stderr",
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
];

/// The one file that writes to the standard streams.
const OUTPUT: &str = "crates/app/src/output.rs";

/// The lines of a source without comments; strings stay.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Whether a line has the word, not as a part of another one.
fn has_word(line: &str, word: &str) -> bool {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    line.match_indices(word).any(|(at, _)| {
        !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next())
    })
}

/// Whether a source reaches a module of `std`: by its path, or in braces behind `std::`.
fn reaches(text: &str, module: &str) -> bool {
    let source: String = code(text).map(|(_, line)| format!("{line}\n")).collect();
    let grouped = source.split("std::{").skip(1).filter_map(|rest| rest.split_once("};"));
    let mut inside = grouped.flat_map(|(inside, _)| inside.split([',', '{', '}', ':']).map(str::trim));
    has_word(&source, &format!("std::{module}")) || inside.any(|word| word == module)
}

fn sources(house: &House, room: &str) -> Vec<String> {
    house.files(&format!("crates/{room}/src"), "rs")
}

/// Files outside of `device` that contain unsafe code or allow it.
pub(super) fn unsafe_code(house: &House) -> Broken {
    // Behind the word comes what it makes unsafe; in a sentence something else does.
    let things = ["{", "fn", "impl", "trait", "extern"].map(|thing| format!("unsafe {thing}"));
    let words: Vec<&str> = things.iter().map(String::as_str).chain(["allow(unsafe_code)"]).collect();
    let mut broken = Vec::new();
    for path in house
        .rust_files()
        .iter()
        .filter(|path| !path.starts_with("crates/device/") && !path.ends_with("it/house/purity.rs"))
    {
        let text = house.read(path);
        for (number, line) in code(&text).filter(|(_, line)| words.iter().any(|word| has_word(line, word))) {
            broken.push(format!("{path}:{number}: {}", line.trim()));
        }
    }
    broken
}

/// Places where a pure crate acts on the world or asks it something.
pub(super) fn effects(house: &House) -> Broken {
    let mut broken = Vec::new();
    for path in PURE.iter().flat_map(|(room, _)| sources(house, room)) {
        let text = house.read(&path);
        let reached = MODULES.iter().filter(|module| reaches(&text, module));
        broken.extend(reached.map(|module| format!("{path} uses std::{module}")));
        for (number, line) in code(&text) {
            let named = NAMES.iter().filter(|name| has_word(line, name));
            broken.extend(named.map(|name| format!("{path}:{number} uses {name}")));
        }
    }
    broken
}

/// Dependencies of pure crates that are not on their list.
pub(super) fn dependencies(house: &House) -> Broken {
    let mut broken = Vec::new();
    for (room, allowed) in PURE {
        let manifest = house.read(&format!("crates/{room}/Cargo.toml"));
        let section = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let section = section.split("\n[").next().unwrap_or_default();
        for name in section.lines().filter_map(|line| line.split(['.', ' ', '=']).next()) {
            if !name.is_empty()
                && !name.starts_with(['#', '['])
                && !name.starts_with("lingot-")
                && !allowed.contains(&name)
            {
                broken.push(format!("{room} depends on {name}"));
            }
        }
    }
    broken
}

/// Files of crates that write to standard output or standard error, other than the one that may.
pub(super) fn output(house: &House) -> Broken {
    let words = ["println!", "eprintln!", "print!", "eprint!", "io::stdout()", "io::stderr()"];
    let mut broken = Vec::new();
    for path in house.crates().iter().flat_map(|room| sources(house, room)).filter(|path| path != OUTPUT) {
        let text = house.read(&path);
        // Asking whether a stream is a terminal writes nothing; tests may print.
        let code = code(&text).take_while(|(_, line)| *line != "#[cfg(test)]");
        for (number, line) in code.filter(|(_, line)| !line.contains("is_terminal()")) {
            let found = words.iter().filter(|word| has_word(line, word));
            broken.extend(found.map(|word| format!("{path}:{number} uses {word}")));
        }
    }
    broken
}
