//! Where prepared data comes from: the files with their hashes, and the documents of a corpus by their
//! numbers.

use crate::files::FileRecord;
use crate::manifest::Manifest;
use crate::record::{CorpusRecord, ShardRecord};
use crate::split::Split;
use lingot_spec::manifest::{CorpusHashes, DataHashes};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The prepared files of a run, each with the size and the hash that it had when it was made.
#[derive(Clone, Debug)]
pub struct DataFiles {
    folder: PathBuf,
    files: Vec<(PathBuf, FileRecord)>,
}

impl DataFiles {
    pub(crate) fn of(manifest: &Manifest, folder: &Path) -> DataFiles {
        let of_shards = |shards: &ShardRecord| {
            [&shards.idx, &shards.bin].map(|file| (shards.locate(file, folder), file.clone()))
        };
        let sides =
            manifest.corpora.iter().flat_map(|corpus| corpus.training.iter().chain(&corpus.validation));
        DataFiles { folder: folder.into(), files: sides.flat_map(of_shards).collect() }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.bytes).sum()
    }

    /// Reads all files, and compares them with their hashes. Gives up, without a finding, once
    /// `is_abandoned`. Errors with the first that has changed.
    pub fn check(&self, is_abandoned: &AtomicBool) -> Result<()> {
        for (path, before) in &self.files {
            let Some(now) = FileRecord::unless(path, &|| is_abandoned.load(Ordering::Relaxed))? else {
                return Ok(());
            };
            check(path, before, &now, &self.folder)?;
        }
        Ok(())
    }
}

/// Errors if a prepared file is not what it was.
pub(crate) fn check(path: &Path, before: &FileRecord, now: &FileRecord, folder: &Path) -> Result<()> {
    if before.hash == now.hash {
        return Ok(());
    }
    let short = |hash: &str| hash.get(..16).unwrap_or(hash).to_owned();
    Err(Problem::new(
        format!(
            "{} was changed after it was prepared: its BLAKE3 is {}, data.json says {}",
            path.display(),
            short(&now.hash),
            short(&before.hash)
        ),
        format!(
            "put back the file, or delete the folder {} to prepare the same text again",
            folder.display()
        ),
    )
    .of(ProblemKind::Damaged))
}

impl Manifest {
    /// The hashes of what a run is trained on.
    pub(crate) fn hashes(&self) -> DataHashes {
        let files = |shards: &ShardRecord| [shards.idx.hash.clone(), shards.bin.hash.clone()];
        let corpus = |corpus: &CorpusRecord| CorpusHashes {
            path: corpus.path.clone(),
            training: corpus.training.as_ref().map(files),
            validation: corpus.validation.as_ref().map(files),
        };
        DataHashes {
            tokenizer: self.tokenizer.file.hash.clone(),
            corpora: self.corpora.iter().map(corpus).collect(),
        }
    }

    /// Errors if the tokenizer in the folder is not the one that the text was encoded with.
    pub(crate) fn check_tokenizer(&self, folder: &Path) -> Result<()> {
        let before = &self.tokenizer.file;
        let path = folder.join(&before.path);
        check(&path, before, &FileRecord::of(&path, &mut |_| ())?, folder)
    }
}

/// What tells the documents of a corpus from those of its training shards.
pub(crate) struct Origin {
    path: String,
    documents: u64,
    split: Split,
}

impl Origin {
    /// Returns the origins of all corpora, in their order.
    pub(crate) fn all(manifest: &Manifest) -> Vec<Origin> {
        let settings = &manifest.settings;
        let origin = |(index, corpus): (usize, &CorpusRecord)| Origin {
            path: corpus.path.clone(),
            documents: corpus.documents,
            // Where the only document is cut does not change its number.
            split: Split::of(settings.seed, index as u64, corpus.documents, 0, settings.validation),
        };
        manifest.corpora.iter().enumerate().map(origin).collect()
    }

    /// A training document in words.
    pub(crate) fn name(&self, training_document: u64) -> String {
        let mut trained = (0..self.documents).filter(|&document| !self.split.holds_out(document));
        let number = trained.nth(training_document as usize).unwrap_or(training_document) + 1;
        format!("document {number} of {}", self.path)
    }
}
