//! The first pass over the corpora: counts documents, hashes files, finds what is wrong, and samples the text.

use crate::corpus;
use crate::files::FileRecord;
use crate::order::hash;
use crate::progress::{Progress, Stage};
use crate::shards;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::{CorpusSpec, DataSpec};
use std::path::{Path, PathBuf};

/// The tokenizer is trained on at most this much text.
const SAMPLE_BYTES: usize = 32 << 20;

/// What one look at a corpus tells.
pub(crate) struct Survey {
    pub sources: Vec<FileRecord>,
    /// The prefix of shards that are used in place.
    pub foreign: Option<PathBuf>,
    pub documents: u64,
    /// Of text.
    pub bytes: u64,
}

/// Reads everything once: counts documents, hashes files, finds what is wrong, and samples the text.
pub(crate) fn survey(
    spec: &DataSpec,
    seed: u64,
    folder: &Path,
    sample: &mut Option<Sample>,
    progress: Progress,
) -> Result<Vec<Survey>> {
    let mut listed = Vec::new();
    for corpus in &spec.corpora {
        let foreign = shards::prefix_of(&corpus.path);
        if foreign.is_some() && spec.tokenizer.is_none() {
            return Err(Problem::new(
                format!("corpus {} is made of tokens already, but the run names no tokenizer", corpus.path),
                "give the tokenizer that the shards were made with as `data.tokenizer`",
            ));
        }
        let files = match &foreign {
            Some(prefix) => shards::files_of(prefix).to_vec(),
            None => corpus::sources(corpus, folder)?,
        };
        listed.push((foreign, files));
    }
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |about| about.len());
    let total = listed.iter().flat_map(|(_, files)| files).map(size).sum();
    let mut done = 0;
    let mut told = |read| {
        done += read;
        progress(Stage { name: "reading", done, total });
    };
    let mut surveys = Vec::new();
    for (index, (corpus, (foreign, files))) in spec.corpora.iter().zip(listed).enumerate() {
        let mut survey = Survey { sources: vec![], foreign, documents: 0, bytes: 0 };
        for file in files {
            survey.source(corpus, &file, &[seed, index as u64], sample, &mut told)?;
        }
        survey.check(corpus)?;
        surveys.push(survey);
    }
    Ok(surveys)
}

impl Survey {
    fn source(
        &mut self,
        corpus: &CorpusSpec,
        path: &Path,
        key: &[u64; 2],
        sample: &mut Option<Sample>,
        told: &mut dyn FnMut(u64),
    ) -> Result<()> {
        self.sources.push(FileRecord::of(path, told)?);
        if self.foreign.is_some() {
            return Ok(());
        }
        for (number, piece) in corpus::pieces(corpus, path)?.enumerate() {
            let piece = piece?;
            self.bytes += piece.text.len() as u64;
            self.documents += u64::from(piece.ends);
            if let Some(sample) = sample {
                sample.offer(hash(&[key[0], key[1], self.sources.len() as u64, number as u64]), piece.text);
            }
        }
        Ok(())
    }

    fn check(&self, corpus: &CorpusSpec) -> Result<()> {
        if self.foreign.is_some() || self.documents > 0 {
            return Ok(());
        }
        let files = self.sources.len();
        Err(Problem::new(
            format!("corpus {} has no documents: {files} files with text, all blank", corpus.path),
            "hidden and binary files of a folder are skipped; check `path`, and `field` for JSONL and Parquet",
        ))
    }
}

/// Text for the tokenizer: pieces chosen by hash, half of them dropped whenever there are too many. One pass, no
/// need to know how much will come, and the same choice each time.
pub(crate) struct Sample {
    kept: Vec<(u64, String)>,
    bytes: usize,
    highest: u64,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample { kept: vec![], bytes: 0, highest: u64::MAX }
    }
}

impl Sample {
    fn offer(&mut self, key: u64, text: String) {
        if key > self.highest {
            return;
        }
        self.bytes += text.len();
        self.kept.push((key, text));
        while self.bytes > SAMPLE_BYTES && self.kept.len() > 1 {
            self.highest /= 2;
            self.kept.retain(|(key, _)| *key <= self.highest);
            self.bytes = self.kept.iter().map(|(_, text)| text.len()).sum();
        }
    }

    pub(crate) fn texts(self) -> impl Iterator<Item = String> {
        self.kept.into_iter().map(|(_, text)| text)
    }
}
