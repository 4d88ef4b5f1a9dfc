//! A folder with a text and a tiny run, in which the program is run.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub(crate) struct Place {
    folder: TempDir,
}

/// What a command returned and printed.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    /// A text `text.txt` and a run `run.toml` that trains for 12 steps within a moment.
    pub(crate) fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        place.write("text.txt", &text(400));
        place.write("run.toml", RUN);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lingot"));
        command.current_dir(self.folder.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs the program with these arguments.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).output().unwrap())
    }

    /// Runs the program, which has to succeed, and returns its standard output.
    #[track_caller]
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, 0, "{args:?}\n{}\n{}", ended.out, ended.err);
        ended.out
    }

    /// Runs the program with `--json`, and returns the object.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.succeed(&[args, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Runs the program, which has to fail with this code, an error and a hint, and nothing on standard
    /// output. Returns its standard error.
    #[track_caller]
    pub(crate) fn fail(&self, code: i32, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, code, "{args:?}\n{}\n{}", ended.out, ended.err);
        assert!(ended.err.contains("error: ") && ended.err.contains("\n\nhint: "), "{}", ended.err);
        assert_eq!(ended.out, "");
        ended.err
    }
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Every file below a folder with its content.
pub(crate) fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all
}

/// The hashes of all tensors of a checkpoint: weights, optimizer, routers' state.
pub(crate) fn hashes(checkpoint: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(checkpoint.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let entry = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        (format!("{}/{}", text("file"), text("name")), text("blake3"))
    };
    manifest["tensors"].as_array().unwrap().iter().map(entry).collect()
}

/// Sentences of a small grammar, one a line.
pub(crate) fn text(lines: usize) -> String {
    let words =
        ["the", "cat", "dog", "bird", "sees", "hears", "follows", "a", "red", "small", "old", "house"];
    let mut state = 7_u64;
    let mut text = String::new();
    for _ in 0..lines {
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text += words[(state >> 33) as usize % words.len()];
            text.push(' ');
        }
        text += "by day.\n";
    }
    text
}

const RUN: &str = r#"
seed = 3

[model]
preset = "toy"
vocabulary = 300
width = 16
layers = 2
heads = 2
kv_heads = 1
head_width = 8
rotary_width = 4
dense_width = 24
experts = 4
expert_width = 8

[data]
corpora = [{ path = "text.txt" }]
validation = 0.1
sequence = 16

[batch]
sequences = 4
micro = 2

[schedule]
warmup_steps = 2

[stop]
steps = 12

[evaluation]
every = 6
sequences = 4

[checkpoint]
every = 4
"#;

/// A run of the smallest model there is, into `folder/name`; `rest` says how long, how often and on what.
pub(crate) fn write_small_run(folder: &Path, name: &str, rest: &str) -> PathBuf {
    // A copy, so that editing the sources during the test does not change the corpus.
    let sources = folder.join("text.rs");
    fs::write(&sources, include_str!("../../src/train.rs").repeat(2)).unwrap();
    let text = format!(
        r#"
folder = "{0}/{name}"
seed = 5
[model]
preset = "toy"
vocabulary = 400
width = 32
layers = 2
heads = 2
kv_heads = 1
head_width = 16
rotary_width = 8
dense_width = 48
experts = 4
expert_width = 16
[data]
corpora = [{{ path = "{1}" }}]
sequence = 32
cache = "{0}/data"
[batch]
sequences = 4
micro = 2
{rest}"#,
        folder.display(),
        sources.display()
    );
    let path = folder.join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path
}
