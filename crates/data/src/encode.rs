//! The second pass over the corpora: tokens into shards, in parallel and in order.

use crate::corpus;
use crate::document::Piece;
use crate::foreign::Adoption;
use crate::patience::{Exhausted, Patience};
use crate::progress::{Progress, Stage};
use crate::record::{CorpusRecord, ShardRecord};
use crate::shards::{self, ShardWriter, Shards};
use crate::split::Split;
use crate::survey::Survey;
use crate::tokenizer::Tokenizer;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::{CorpusSpec, DataSpec};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Text that is encoded at once.
const BATCH_BYTES: usize = 8 << 20;

/// Encodes all corpora into shards in `folder`.
pub(crate) fn encode(
    spec: &DataSpec,
    seed: u64,
    surveys: Vec<Survey>,
    tokenizer: &Tokenizer,
    folder: &Path,
    progress: Progress,
) -> Result<Vec<CorpusRecord>> {
    let total = surveys.iter().map(|survey| survey.bytes).sum();
    let text = Arc::new(tokenizer.reading_special_tokens(false));
    let special = Arc::new(tokenizer.reading_special_tokens(true));
    let mut records = Vec::new();
    let mut done = 0;
    for (index, (corpus, survey)) in spec.corpora.iter().zip(surveys).enumerate() {
        let tokenizer = if corpus.special_tokens { &special } else { &text };
        let mut encoding = Encoding { tokenizer, folder, progress, done, total, patience: Patience::new() };
        records.push(encoding.corpus(corpus, survey, index, seed, spec.validation)?);
        done = encoding.done;
    }
    Ok(records)
}

/// The second pass over one corpus.
struct Encoding<'a> {
    tokenizer: &'a Arc<Tokenizer>,
    folder: &'a Path,
    progress: Progress<'a>,
    /// Bytes of text encoded so far, those of earlier corpora included.
    done: u64,
    total: u64,
    patience: Patience,
}

impl Encoding<'_> {
    fn corpus(
        &mut self,
        corpus: &CorpusSpec,
        survey: Survey,
        index: usize,
        seed: u64,
        validation: f64,
    ) -> Result<CorpusRecord> {
        let stem = format!("{index}-{}", plain_name(&corpus.path));
        if let Some(prefix) = &survey.foreign {
            let shards = Shards::open(prefix)?;
            let (tokenizer, folder) = (self.tokenizer, self.folder);
            let adoption =
                Adoption { shards: &shards, tokenizer, sources: survey.sources, folder, stem: &stem };
            return adoption.write(&corpus.path, seed, index as u64, validation);
        }
        let split = Split::of(seed, index as u64, survey.documents, survey.bytes, validation);
        let prefix = |side| self.folder.join(format!("{stem}-{side}"));
        let mut sides = Sides {
            split,
            document: 0,
            seen_bytes: 0,
            training: Side::create(prefix("training"), self.tokenizer)?,
            held_out: Side::create(prefix("validation"), self.tokenizer)?,
        };
        for (source, file) in survey.sources.iter().zip(&survey.files) {
            self.source(corpus, Path::new(&source.path), file, &mut sides)?;
            if file != Path::new(&source.path) {
                // The copy of a source that could be read only once.
                std::fs::remove_file(file).map_err(|e| Problem::io("remove", file, &e))?;
            }
        }
        let note = matches!(split, Split::At(_)).then(|| {
            format!(
                "{} is one document: its last {} bytes are held out",
                corpus.path, sides.held_out.text_bytes
            )
        });
        Ok(CorpusRecord {
            path: corpus.path.clone(),
            documents: survey.documents,
            sources: survey.sources,
            training: sides.training.finish()?,
            validation: sides.held_out.finish()?,
            note,
            notes: survey.notes,
        })
    }

    fn source(&mut self, corpus: &CorpusSpec, source: &Path, file: &Path, sides: &mut Sides) -> Result<()> {
        let whole_documents = !self.tokenizer.joins_pieces();
        let mut waiting: Vec<Part> = Vec::new();
        let mut waiting_bytes = 0;
        for piece in corpus::pieces_of(corpus, source, file)? {
            let piece = piece?;
            waiting_bytes += piece.text.len();
            let ends = piece.ends;
            for part in sides.divide(piece) {
                match waiting.last_mut() {
                    Some(last) if whole_documents && !last.piece.ends => last.join(part),
                    _ => waiting.push(part),
                }
            }
            if waiting_bytes >= BATCH_BYTES && (ends || !whole_documents) {
                self.flush(&mut waiting, source, sides)?;
                waiting_bytes = 0;
            }
        }
        self.flush(&mut waiting, source, sides)
    }

    /// Encodes what is waiting, on all threads, and writes it in order.
    fn flush(&mut self, waiting: &mut Vec<Part>, source: &Path, sides: &mut Sides) -> Result<()> {
        let parts = std::mem::take(waiting);
        let bytes = parts.iter().map(|part| part.piece.text.len()).sum();
        let tokenizer = self.tokenizer.clone();
        let encode = move || {
            let encode = |part: &Part| tokenizer.encode(&part.piece.text);
            let encoded: Vec<Vec<u32>> = parts.par_iter().map(encode).collect();
            (parts, encoded)
        };
        let done = self.patience.run(bytes, encode);
        let (parts, encoded) = done.map_err(|exhausted| not_encoded(source, exhausted))?;
        for (part, tokens) in parts.into_iter().zip(encoded) {
            let side = if part.held_out { &mut sides.held_out } else { &mut sides.training };
            side.push(&tokens, part.piece.text.len())?;
            if part.piece.ends {
                side.end_document(self.tokenizer.end_of_document())?;
            }
            self.done += part.piece.text.len() as u64;
        }
        (self.progress)(Stage { name: "encoding", done: self.done, total: self.total });
        Ok(())
    }
}

/// The problem of text that was not encoded.
fn not_encoded(source: &Path, exhausted: Exhausted) -> Problem {
    match exhausted {
        Exhausted::TooSlow { taken_s, bytes } => Problem::new(
            format!(
                "the tokenizer has not split {bytes:.0} bytes of {} in {taken_s:.0} s: a regular expression \
                 of its pre_tokenizer or normalizer explodes",
                source.display()
            ),
            "give another tokenizer with `data.tokenizer` or `--tokenizer`; without one, it is trained",
        )
        .of(ProblemKind::Input),
        Exhausted::NoThread => Problem::new(
            format!("there is no thread to encode {} with", source.display()),
            "raise the limits on processes and memory (`ulimit -u`, `ulimit -v`)",
        ),
    }
}

/// A piece and the side that it goes to.
struct Part {
    piece: Piece,
    held_out: bool,
}

impl Part {
    fn join(&mut self, next: Part) {
        self.piece.text.push_str(&next.piece.text);
        self.piece.ends = next.piece.ends;
    }
}

/// The two shards of a corpus while they are written.
struct Sides {
    split: Split,
    /// The number of the current document.
    document: u64,
    /// Bytes of text before the next piece.
    seen_bytes: u64,
    training: Side,
    held_out: Side,
}

impl Sides {
    /// Sends a piece to its side; the only document of a corpus is cut in two.
    fn divide(&mut self, piece: Piece) -> Vec<Part> {
        let begin = self.seen_bytes;
        self.seen_bytes += piece.text.len() as u64;
        let document = self.document;
        self.document += u64::from(piece.ends);
        let Split::At(cut) = self.split else {
            return vec![Part { piece, held_out: self.split.holds_out(document) }];
        };
        if cut >= self.seen_bytes {
            // The cut may fall between this piece and the next.
            let ends = piece.ends || cut == self.seen_bytes;
            return vec![Part { piece: Piece { ends, ..piece }, held_out: false }];
        }
        let at = piece.text.ceil_char_boundary(cut.saturating_sub(begin) as usize);
        let (before, after) = piece.text.split_at(at);
        let part = |text: &str, ends, held_out| Part { piece: Piece { text: text.into(), ends }, held_out };
        let mut parts = vec![part(before, true, false), part(after, piece.ends, true)];
        parts.retain(|part| !part.piece.text.is_empty());
        parts
    }
}

/// One side's shards while they are written.
struct Side {
    prefix: PathBuf,
    writer: ShardWriter,
    documents: u64,
    text_bytes: u64,
}

impl Side {
    fn create(prefix: PathBuf, tokenizer: &Tokenizer) -> Result<Side> {
        let writer = ShardWriter::create(&prefix, tokenizer.vocabulary())?;
        Ok(Side { prefix, writer, documents: 0, text_bytes: 0 })
    }

    fn push(&mut self, tokens: &[u32], text_bytes: usize) -> Result<()> {
        self.text_bytes += text_bytes as u64;
        self.writer.push(tokens)
    }

    fn end_document(&mut self, end: u32) -> Result<()> {
        self.writer.push(&[end])?;
        self.writer.end_document();
        self.documents += 1;
        Ok(())
    }

    /// None, and no files, where nothing was written.
    fn finish(self) -> Result<Option<ShardRecord>> {
        let tokens = self.writer.tokens();
        let (idx, bin) = self.writer.finish_recorded()?;
        if tokens == 0 {
            for file in shards::files_of(&self.prefix) {
                std::fs::remove_file(&file).map_err(|e| Problem::io("remove", &file, &e))?;
            }
            return Ok(None);
        }
        let (documents, text_bytes) = (self.documents, self.text_bytes);
        Ok(Some(ShardRecord { documents, tokens, text_bytes, idx, bin, in_place: false }))
    }
}

/// The last part of a path, with only characters that suit a file name.
fn plain_name(path: &str) -> String {
    let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    name.chars().map(plain).take(40).collect()
}
