//! The first pass over the corpora: counts documents, hashes files, finds what is wrong, and samples the
//! text.

use crate::corpus;
use crate::files::FileRecord;
use crate::order::hash;
use crate::progress::{Progress, Stage};
use crate::shards;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::{CorpusSpec, DataSpec};
use std::path::{Path, PathBuf};

/// The tokenizer is trained on at most this much text.
const SAMPLE_BYTES: usize = 32 << 20;

/// What the first pass finds out about a corpus.
pub(crate) struct Survey {
    pub sources: Vec<FileRecord>,
    /// Where the bytes of each source are read from.
    pub files: Vec<PathBuf>,
    /// The prefix of shards that are used in place.
    pub foreign: Option<PathBuf>,
    pub documents: u64,
    /// UTF-8 bytes of text.
    pub bytes: u64,
    /// What the user should know, each a sentence.
    pub notes: Vec<String>,
}

/// What the first pass works with.
pub(crate) struct Surveyor<'a> {
    pub seed: u64,
    /// The folder that is being prepared, which may lie inside a corpus.
    pub folder: &'a Path,
    /// Where sources are copied that can be read only once, such as pipes.
    pub copies: &'a Path,
    /// Text for the tokenizer, where one is trained.
    pub sample: Option<Sample>,
}

impl Surveyor<'_> {
    /// Reads every corpus to its end.
    pub(crate) fn survey(&mut self, spec: &DataSpec, progress: Progress) -> Result<Vec<Survey>> {
        let listed = spec.corpora.iter().map(|corpus| self.list(corpus, spec)).collect::<Result<Vec<_>>>()?;
        let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |about| about.len());
        let total: u64 = listed.iter().flat_map(|survey| &survey.files).map(size).sum();
        let mut done = 0;
        let mut report = |read| {
            done += read;
            progress(Stage { name: "reading", done, total: total.max(done) });
        };
        let mut surveys = Vec::new();
        for (index, (corpus, mut survey)) in spec.corpora.iter().zip(listed).enumerate() {
            for place in 0..survey.files.len() {
                self.source(corpus, index, &mut survey, place, &mut report)?;
            }
            survey.check(corpus)?;
            surveys.push(survey);
        }
        Ok(surveys)
    }

    /// The files of a corpus, before any of them is read.
    fn list(&self, corpus: &CorpusSpec, spec: &DataSpec) -> Result<Survey> {
        let foreign = shards::prefix_of(&corpus.path);
        if foreign.is_some() && spec.tokenizer.is_none() {
            return Err(Problem::new(
                format!("corpus {} is made of tokens already, but the run names no tokenizer", corpus.path),
                "give the tokenizer that the shards were made with as `data.tokenizer`",
            )
            .of(ProblemKind::Input));
        }
        let files = match &foreign {
            Some(prefix) => shards::files_of(prefix).to_vec(),
            None => corpus::sources(corpus, self.folder)?,
        };
        Ok(Survey { sources: vec![], files, foreign, documents: 0, bytes: 0, notes: vec![] })
    }

    fn source(
        &mut self,
        corpus: &CorpusSpec,
        index: usize,
        survey: &mut Survey,
        place: usize,
        report: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let path = survey.files[place].clone();
        if path.metadata().is_ok_and(|about| !about.is_file()) {
            survey.files[place] = self.copies.join(format!("copy-{index}-{place}"));
            survey.sources.push(FileRecord::copied(&path, &survey.files[place], report)?);
        } else {
            survey.sources.push(FileRecord::of(&path, report)?);
        }
        if survey.foreign.is_some() {
            return Ok(());
        }
        let mut pieces = corpus::pieces_of(corpus, &path, &survey.files[place])?;
        for (number, piece) in pieces.by_ref().enumerate() {
            let piece = piece?;
            survey.bytes += piece.text.len() as u64;
            survey.documents += u64::from(piece.ends);
            if let Some(sample) = &mut self.sample {
                let key = hash(&[self.seed, index as u64, survey.sources.len() as u64, number as u64]);
                sample.offer(key, piece.text);
            }
        }
        survey.notes.extend(pieces.notes());
        Ok(())
    }
}

impl Survey {
    fn check(&self, corpus: &CorpusSpec) -> Result<()> {
        if self.foreign.is_some() || self.documents > 0 {
            return Ok(());
        }
        let files = self.sources.len();
        Err(Problem::new(
            format!("corpus {} has no documents: {files} files with text, all blank", corpus.path),
            "hidden and binary files of a folder are skipped; check `path`, and `field` for JSON and Parquet",
        )
        .of(ProblemKind::Input))
    }
}

/// Text for the tokenizer: pieces chosen by hash, half of which are dropped whenever there are too many. It
/// takes one pass, needs no total, and makes the same choice each time.
pub(crate) struct Sample {
    /// Keys and texts.
    kept: Vec<(u64, String)>,
    bytes: usize,
    /// Pieces with a larger key are dropped.
    highest: u64,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample { kept: vec![], bytes: 0, highest: u64::MAX }
    }
}

impl Sample {
    /// Takes a piece or leaves it, by its key.
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

    /// The chosen pieces, in the order of the corpora.
    pub(crate) fn texts(self) -> impl Iterator<Item = String> {
        self.kept.into_iter().map(|(_, text)| text)
    }
}
