//! Each rule fails where it is broken: a copy of this tree, one violation at a time.

use super::{House, RULES};
use std::fs;
use std::path::Path;

/// Copies what the rules look at.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let place = to.join(&name);
        if entry.path().is_dir() {
            let is_looked_at =
                !name.starts_with('.') && !["target", "out", "golden", "venv"].contains(&name.as_str());
            if is_looked_at {
                copy(&entry.path(), &place);
            }
        } else if [".rs", ".toml", ".md", ".svg", ".sh", ".py"].iter().any(|end| name.ends_with(end)) {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// What is planted: a file, its content from the one that is there, and words of what the rule says then.
struct Plant {
    rule: &'static str,
    file: &'static str,
    change: fn(String) -> String,
    wanted: &'static str,
}

const fn plant(
    rule: &'static str,
    file: &'static str,
    change: fn(String) -> String,
    wanted: &'static str,
) -> Plant {
    Plant { rule, file, change, wanted }
}

const PLANTS: &[Plant] = &[
    plant(
        "the arrows",
        "crates/sync/Cargo.toml",
        |text| text + "lingot-device.workspace = true\n",
        "sync -> device is not drawn",
    ),
    plant(
        "the arrows",
        "crates/sync/Cargo.toml",
        |text| text.replace("lingot-spec", "other"),
        "sync -> spec is not imported",
    ),
    plant(
        "the arrows",
        "ARCHITECTURE.md",
        |text| text.replace("\n| `sync` |", "\n| `synk` |"),
        "crates/sync is not in",
    ),
    plant("every arrow", "ARCHITECTURE.md", upside_down, "align -> train does not point down"),
    plant(
        "every arrow",
        "ARCHITECTURE.md",
        |text| text.replacen(" measure ", " app ", 1),
        "not show app in one place",
    ),
    plant(
        "an op has",
        "crates/device/src/op/twist.rs",
        |_| "//! A new op.\n".into(),
        "torch has no twist.rs",
    ),
    plant(
        "unsafe code",
        "crates/sync/src/lib.rs",
        |text| text + concat!("pub un", "safe fn f() {}\n"),
        "sync/src/lib.rs",
    ),
    plant(
        "the pure crates compute",
        "crates/plan/src/lib.rs",
        |text| text + "use std::{fmt, fs};\n",
        "uses std::fs",
    ),
    plant(
        "the pure crates compute",
        "crates/spec/src/lib.rs",
        |text| text + "use std::net::TcpStream;\n",
        "uses std::net",
    ),
    plant(
        "the pure crates compute",
        "crates/sync/src/lib.rs",
        |text| text + "fn f() { std::thread::yield_now() }\n",
        "uses std::thread",
    ),
    plant(
        "the pure crates compute",
        "crates/sync/src/lib.rs",
        |text| text + "use std::time::Instant;\n",
        "uses Instant",
    ),
    plant(
        "the pure crates compute",
        "crates/plan/src/lib.rs",
        |text| text + "use std::{\n    env,\n};\n",
        "uses std::env",
    ),
    plant(
        "the pure crates compute",
        "crates/plan/src/lib.rs",
        |text| text + "use std::time::SystemTime;\n",
        "uses SystemTime",
    ),
    plant(
        "the pure crates depend",
        "crates/plan/Cargo.toml",
        |text| text + "rand.workspace = true\n",
        "plan depends on rand",
    ),
    plant(
        "all output",
        "crates/train/src/lib.rs",
        |text| text + "fn f() { eprintln!(\"\") }\n",
        "uses eprintln!",
    ),
    plant(
        "every file opens",
        "crates/app/src/main.rs",
        |text| text[4..].to_owned(),
        "crates/app/src/main.rs",
    ),
    plant(
        "files have",
        "crates/app/src/main.rs",
        |text| text + &"\n".repeat(400),
        "crates/app/src/main.rs has",
    ),
    plant("lines have", "crates/app/src/main.rs", wide, "crates/app/src/main.rs:"),
    plant("lines have", "docs/cli.md", wide, "docs/cli.md:"),
    plant("functions have", "clippy.toml", |text| text.replace("70", "700"), "clippy.toml"),
    plant(
        "functions have",
        "crates/sync/Cargo.toml",
        |text| text.replace("[lints]", "[lint]"),
        "crates/sync does not take",
    ),
    plant("no text", "README.md", |text| text + "[gone](docs/gone.md)\n", "links to docs/gone.md"),
    plant(
        "every library",
        "crates/extra/src/lib.rs",
        |_| "//! A new crate.\n".into(),
        "crates/extra/src/lib.rs",
    ),
];

/// The text with a line that is too wide.
fn wide(text: String) -> String {
    text + &format!("//{}\n", "-".repeat(120))
}

/// The picture with its rows from the bottom to the top.
fn upside_down(text: String) -> String {
    let (head, rest) = text.split_once("```").unwrap();
    let (picture, tail) = rest.split_once("```").unwrap();
    let rows: Vec<&str> = picture.lines().rev().collect();
    format!("{head}```{}\n```{tail}", rows.join("\n"))
}

#[test]
fn every_rule_finds_what_breaks_it() {
    let folder = tempfile::tempdir().unwrap();
    copy(&House::here().root, folder.path());
    let house = House { root: folder.path().to_owned() };
    for Plant { rule, file, change, wanted } in PLANTS {
        let (name, check) = RULES.iter().find(|(name, _)| name.starts_with(rule)).unwrap();
        let path = folder.path().join(file);
        let before = fs::read_to_string(&path).ok();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, change(before.clone().unwrap_or_default())).unwrap();
        let found = check(&house);
        assert!(found.iter().any(|place| place.contains(wanted)), "{name}: {file}: {found:?}");
        match before {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert!(check(&house).is_empty(), "{name}: {:?}", check(&house));
    }
    for (name, _) in RULES {
        assert!(
            PLANTS.iter().any(|plant| name.starts_with(plant.rule)),
            "nothing is planted against: {name}"
        );
    }
}
