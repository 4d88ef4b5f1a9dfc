//! The entries of `data.json`: the tokenizer, each corpus and its shards.

use crate::files::FileRecord;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The tokenizer of a folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TokenizerRecord {
    /// `tokenizer.json` in the folder.
    pub file: FileRecord,
    /// Tokens of the tokenizer.
    pub vocabulary: u32,
    pub end_of_document: u32,
}

/// A corpus, its source files and its shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CorpusRecord {
    pub path: String,
    /// Documents of the sources; a document that was cut in two counts once.
    pub documents: u64,
    pub sources: Vec<FileRecord>,
    pub training: Option<ShardRecord>,
    pub validation: Option<ShardRecord>,
    /// How its only document was split, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the user should know of its sources, each a sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl CorpusRecord {
    /// Errors if the corpus has less than one sequence to train on.
    pub(crate) fn check_length(&self, sequence: u64) -> Result<()> {
        let tokens = self.training.as_ref().map_or(0, |shards| shards.tokens);
        if sequence > 0 && tokens >= sequence {
            return Ok(());
        }
        Err(Problem::new(
            format!("corpus {} has {tokens} tokens to train on, but a sequence has {sequence}", self.path),
            "add text, or lower `data.sequence`",
        )
        .of(ProblemKind::Input))
    }
}

/// One pair of `.idx` and `.bin`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    pub documents: u64,
    pub tokens: u64,
    /// UTF-8 bytes of the text.
    pub text_bytes: u64,
    pub idx: FileRecord,
    pub bin: FileRecord,
    /// The `.bin` belongs to the corpus and lies outside the folder.
    pub in_place: bool,
}

impl ShardRecord {
    /// The path of one of the two files of shards that belong to `folder`.
    pub(crate) fn locate(&self, file: &FileRecord, folder: &Path) -> PathBuf {
        if self.in_place && file == &self.bin { PathBuf::from(&file.path) } else { folder.join(&file.path) }
    }
}
