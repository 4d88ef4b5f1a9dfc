//! The entries of `data.json`: the tokenizer, each corpus and its shards.

use crate::files::FileRecord;
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
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
