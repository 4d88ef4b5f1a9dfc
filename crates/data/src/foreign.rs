//! Megatron shards that another program made, used in place. Only an index of the training documents and one
//! of the held-out documents are written; both point into the existing `.bin`.

use crate::files::FileRecord;
use crate::index::{Row, write_index};
use crate::record::{CorpusRecord, ShardRecord};
use crate::shards::Shards;
use crate::split::Split;
use crate::tokenizer::Tokenizer;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::path::Path;

/// One set of shards, and what its indices are made with.
pub(crate) struct Adoption<'a> {
    pub shards: &'a Shards,
    pub tokenizer: &'a Tokenizer,
    pub sources: Vec<FileRecord>,
    /// Folder of the two indices, and the beginning of their names.
    pub folder: &'a Path,
    pub stem: &'a str,
}

/// The contents of one index.
#[derive(Default)]
struct Rows {
    lengths: Vec<i32>,
    pointers: Vec<i64>,
    documents: Vec<i64>,
    tokens: u64,
    text_bytes: u64,
}

impl Adoption<'_> {
    /// Writes the indices of both sides and returns the record of the corpus.
    pub(crate) fn write(self, path: &str, seed: u64, corpus: u64, validation: f64) -> Result<CorpusRecord> {
        let documents = self.shards.documents();
        if self.shards.tokens() == 0 {
            return Err(Problem::new(
                format!("the shards {} hold no tokens", self.shards.path().display()),
                "leave them out of `data.corpora`, or make them again",
            )
            .of(ProblemKind::Input));
        }
        let (mut training, mut held_out) = (Rows::default(), Rows::default());
        let split = Split::of(seed, corpus, documents as u64, self.shards.tokens(), validation);
        for document in 0..documents {
            let tokens = self.checked(document)?;
            let cut = match split {
                Split::At(at) => at,
                _ if split.holds_out(document as u64) => 0,
                _ => tokens.len() as u64,
            };
            let (before, after) = tokens.split_at(cut as usize);
            if !before.is_empty() {
                self.point(&mut training, document, 0, before.len())?;
            }
            if !after.is_empty() {
                self.point(&mut held_out, document, before.len(), after.len())?;
                held_out.text_bytes += self.tokenizer.decode(after).len() as u64;
            }
        }
        let note = matches!(split, Split::At(_))
            .then(|| format!("{path} is one document: its last {} tokens are held out", held_out.tokens));
        Ok(CorpusRecord {
            path: path.into(),
            documents: documents as u64,
            training: self.index(training, "training")?,
            validation: self.index(held_out, "validation")?,
            sources: self.sources,
            note,
            notes: vec![],
        })
    }

    /// The tokens of a document. Errors if the tokenizer does not have one of them.
    fn checked(&self, document: usize) -> Result<Vec<u32>> {
        let vocabulary = self.tokenizer.vocabulary();
        let known = |token: i64| u32::try_from(token).ok().filter(|&token| token < vocabulary).ok_or(token);
        let tokens: std::result::Result<Vec<u32>, i64> =
            self.shards.document(document)?.into_iter().map(known).collect();
        tokens.map_err(|token| {
            Problem::new(
                format!(
                    "document {document} of shards {} holds token {token}, but the tokenizer has \
                     tokens 0 to {}",
                    self.shards.path().display(),
                    vocabulary - 1
                ),
                "give the tokenizer that the shards were made with as `data.tokenizer`",
            )
            .of(ProblemKind::Input)
        })
    }

    /// Adds `count` tokens of a document of the shards, from its token `from` on, as a document of the index.
    fn point(&self, rows: &mut Rows, document: usize, from: usize, count: usize) -> Result<()> {
        let (mut skip, mut left) = (from as i64, count as i64);
        let width = self.shards.stored().bytes() as i64;
        if rows.documents.is_empty() {
            rows.documents.push(0);
        }
        for Row { tokens, pointer } in self.shards.rows_of(document)? {
            let skipped = skip.min(i64::from(tokens));
            let taken = left.min(i64::from(tokens) - skipped);
            if taken > 0 {
                rows.lengths.push(taken as i32);
                rows.pointers.push(pointer + skipped * width);
            }
            (skip, left) = (skip - skipped, left - taken);
        }
        rows.documents.push(rows.lengths.len() as i64);
        rows.tokens += count as u64;
        Ok(())
    }

    /// The record of the `.bin`, with a path that works from any folder.
    fn bin(&self) -> Result<FileRecord> {
        let bin = &self.sources[1];
        let path =
            std::path::absolute(&bin.path).map_err(|e| Problem::io("locate", Path::new(&bin.path), &e))?;
        Ok(FileRecord { path: path.to_string_lossy().into(), ..bin.clone() })
    }

    /// Writes the index of one side; none where it has no tokens.
    fn index(&self, rows: Rows, side: &str) -> Result<Option<ShardRecord>> {
        if rows.tokens == 0 {
            return Ok(None);
        }
        let path = self.folder.join(format!("{}-{side}.idx", self.stem));
        let stored = self.shards.stored();
        let idx = write_index(&path, stored, &rows.lengths, rows.pointers.into_iter(), &rows.documents)?;
        Ok(Some(ShardRecord {
            documents: rows.documents.len() as u64 - 1,
            tokens: rows.tokens,
            text_bytes: rows.text_bytes,
            idx,
            bin: self.bin()?,
            in_place: true,
        }))
    }
}
