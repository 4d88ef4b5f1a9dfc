//! The data crate from outside: from files on disk to batches, and every mistake that users make on the way.

// Helpers of tests fail loudly, like tests.
#![allow(clippy::unwrap_used)]

#[path = "it/batches.rs"]
mod batches;
#[path = "it/bombs.rs"]
mod bombs;
#[path = "it/contents.rs"]
mod contents;
#[path = "it/corpora.rs"]
mod corpora;
#[path = "it/fuzz.rs"]
mod fuzz;
#[path = "it/mistakes.rs"]
mod mistakes;
#[path = "it/places.rs"]
mod places;
#[path = "it/prepared.rs"]
mod prepared;
#[path = "it/tokens.rs"]
mod tokens;

use lingot_data::{Dataset, Prepared, prepare};
use lingot_spec::Problem;
use lingot_spec::run::{CorpusSpec, DataSpec};
use std::path::{Path, PathBuf};

/// A folder of a test, with what it needs to prepare data in it.
struct Bench {
    folder: tempfile::TempDir,
    spec: DataSpec,
    vocabulary: u32,
    seed: u64,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let spec = DataSpec { corpora: vec![], tokenizer: None, validation: 0.1, sequence: 16, cache: None };
        Bench { folder, spec, vocabulary: 400, seed: 1 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Adds a corpus; a file that was written before.
    fn corpus(&mut self, name: &str) -> &mut CorpusSpec {
        self.spec.corpora.push(corpus(&self.path(name)));
        self.spec.corpora.last_mut().unwrap()
    }

    fn shards(&self) -> PathBuf {
        self.path("out/data")
    }

    fn prepare(&self) -> Result<Prepared, Problem> {
        prepare(&self.spec, self.vocabulary, self.seed, &self.shards(), &|_| ())
    }

    fn open(&self) -> Result<Dataset, Problem> {
        Dataset::open(&self.spec, &self.shards(), self.seed)
    }

    /// The error of a preparation that must fail, and that must leave nothing behind.
    fn fails(&self) -> Problem {
        let error = self.prepare().expect_err("this must not be accepted");
        assert!(!self.shards().exists(), "a failed preparation leaves no folder");
        assert!(!self.path("out/data.partial").exists(), "a failed preparation sweeps up");
        error
    }
}

fn corpus(path: &Path) -> CorpusSpec {
    let path = path.to_str().unwrap().to_owned();
    CorpusSpec { path, weight: 1.0, field: "text".into(), split: None, special_tokens: false }
}

/// That an error says all of this, and hints at something.
#[track_caller]
fn says(error: &Problem, words: &[&str]) {
    for word in words {
        assert!(error.problem.contains(word), "`{word}` is missing in: {}", error.problem);
    }
    assert!(!error.hint.is_empty() && error.to_string().contains("\n\nhint: "));
}

/// So many short documents of words that repeat.
fn stories(count: usize) -> Vec<String> {
    let words = ["the", "river", "ran", "under", "a", "bridge", "of", "stone", "née", "and", "☃", "slept"];
    (0..count)
        .map(|story| {
            let text: Vec<&str> =
                (0..30 + story % 17).map(|i| words[(i * i + 7 * story) % words.len()]).collect();
            format!("Story {story}: {}.\n", text.join(" "))
        })
        .collect()
}

fn json_lines(documents: &[String]) -> String {
    documents.iter().map(|text| format!("{}\n", serde_json::json!({ "id": 1, "text": text }))).collect()
}

/// Numbers that follow from a seed.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }
}
