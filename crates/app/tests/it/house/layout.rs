//! The crates and their arrows, as `ARCHITECTURE.md` draws them, and the files of an op on every floor.

use super::{Broken, House};
use std::collections::BTreeSet;

/// Where the names of the ops come from: one file for each op or family of ops.
const OPS: &str = "crates/device/src/op";

/// Files there that are no ops.
const NOT_OPS: [&str; 3] = ["mod", "door", "describe"];

/// The floors that have to have a file of the same name.
const FLOORS: [&str; 3] = ["crates/device/src/reference", "crates/device/src/cpu", "crates/device/src/torch"];

/// A crate, and the crates of ours that it imports.
pub(super) struct Room {
    pub(super) name: String,
    pub(super) imports: BTreeSet<String>,
}

/// The rows of the table of crates in `ARCHITECTURE.md`: | `name` | one line | imports | never |.
pub(super) fn drawn(house: &House) -> Vec<Room> {
    let text = house.read("ARCHITECTURE.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let imports = cells[3].split(',').map(str::trim).filter(|import| *import != "nothing");
            Room {
                name: cells[1].trim_matches('`').to_owned(),
                imports: imports.map(str::to_owned).collect(),
            }
        })
        .collect()
}

/// The crates of ours in the sections of a manifest; dependencies of tests count too.
fn imports_of(house: &House, room: &str) -> BTreeSet<String> {
    let manifest = house.read(&format!("crates/{room}/Cargo.toml"));
    let ours = manifest.lines().filter_map(|line| line.strip_prefix("lingot-"));
    ours.filter_map(|rest| rest.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

/// Crates that are missing from the table, and arrows that are drawn or imported but not both.
pub(super) fn arrows(house: &House) -> Broken {
    let rooms = drawn(house);
    let mut broken = Vec::new();
    for name in house.crates() {
        let Some(room) = rooms.iter().find(|room| room.name == name) else {
            broken.push(format!("crates/{name} is not in ARCHITECTURE.md"));
            continue;
        };
        let imports = imports_of(house, &name);
        broken.extend(imports.difference(&room.imports).map(|to| format!("{name} -> {to} is not drawn")));
        broken.extend(room.imports.difference(&imports).map(|to| format!("{name} -> {to} is not imported")));
    }
    let gone = rooms.iter().filter(|room| !house.crates().contains(&room.name));
    broken.extend(gone.map(|room| format!("ARCHITECTURE.md has {}, which is no crate", room.name)));
    broken
}

/// Crates that the picture above the table does not show exactly once, and arrows between its rows that do
/// not point down.
pub(super) fn picture(house: &House) -> Broken {
    let text = house.read("ARCHITECTURE.md");
    let lines: Vec<&str> = text.split("```").nth(1).unwrap_or_default().lines().collect();
    let rows_of = |name: &str| -> Vec<usize> {
        let words = |line: &str| -> Vec<String> {
            // What follows three spaces and a bar's end explains the row.
            line.split(|letter: char| !letter.is_ascii_alphanumeric()).map(str::to_owned).collect()
        };
        let is_in =
            |line: &str| words(line.split("//").next().unwrap_or_default()).iter().any(|word| word == name);
        (0..lines.len()).filter(|&row| is_in(lines[row])).collect()
    };
    let mut broken = Vec::new();
    for room in drawn(house) {
        let &[row] = rows_of(&room.name).as_slice() else {
            broken.push(format!("the picture does not show {} in one place", room.name));
            continue;
        };
        for import in &room.imports {
            if rows_of(import).first().is_none_or(|&below| below <= row) {
                broken.push(format!("{} -> {import} does not point down", room.name));
            }
        }
    }
    broken
}

/// Ops without a file of their name on some floor.
pub(super) fn op_names(house: &House) -> Broken {
    let names = |folder: &str| -> BTreeSet<String> {
        let stem = |path: String| path.rsplit('/').next().unwrap().trim_end_matches(".rs").to_owned();
        house.files(folder, "rs").into_iter().map(stem).collect()
    };
    let ops: Vec<String> = names(OPS).into_iter().filter(|name| !NOT_OPS.contains(&name.as_str())).collect();
    assert!(ops.len() >= 15, "{OPS} has {} ops", ops.len());
    let mut broken = Vec::new();
    for floor in FLOORS {
        let found = names(floor);
        broken
            .extend(ops.iter().filter(|op| !found.contains(*op)).map(|op| format!("{floor} has no {op}.rs")));
    }
    broken
}
