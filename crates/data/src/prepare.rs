//! From corpora to a folder of shards: once, and then never again until something changes.

use crate::corpus::{self, Piece};
use crate::files::{Aside, FileRecord, HashedFile};
use crate::foreign::{self, Adoption};
use crate::manifest::{self, CorpusRecord, Manifest, Prepared, Settings, ShardRecord, TokenizerRecord};
use crate::order::hash;
use crate::progress::{Progress, Stage};
use crate::shards::{ShardWriter, Shards};
use crate::split::Split;
use crate::tokenizer::Tokenizer;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::{CorpusSpec, DataSpec};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// At most so much text trains a tokenizer.
const SAMPLE_BYTES: usize = 32 << 20;
/// So much text is encoded at once.
const BATCH_BYTES: usize = 8 << 20;

/// Makes tokenizer and shards in `folder`, or checks that what is there was made of the same. The folder appears
/// complete or not at all.
pub fn prepare(
    spec: &DataSpec,
    vocabulary: u32,
    seed: u64,
    folder: &Path,
    progress: Progress,
) -> Result<Prepared> {
    check_spec(spec)?;
    let settings = Settings::of(spec, vocabulary, seed);
    if let Some(manifest) = Manifest::read(folder)? {
        manifest.check(spec, &settings, folder, progress)?;
        check_vocabulary(manifest.tokenizer.vocabulary, vocabulary)?;
        return Ok(manifest.prepared(folder, true));
    }
    let given = spec.tokenizer.as_ref().map(|path| Tokenizer::load(Path::new(path))).transpose()?;
    if let Some(given) = &given {
        check_vocabulary(given.vocabulary(), vocabulary)?;
    }
    let aside = Aside::begin(folder)?;
    let mut sample = given.is_none().then(Sample::default);
    let surveys = survey(spec, seed, folder, &mut sample, progress)?;
    let tokenizer = match (given, sample) {
        (Some(given), _) => given,
        (None, sample) => Tokenizer::train(sample.unwrap_or_default().texts(), vocabulary, progress)?,
    };
    tokenizer.save(&aside.path().join("tokenizer.json"))?;
    let total = surveys.iter().map(|survey| survey.bytes).sum();
    let mut encoding = Encoding { tokenizer: &tokenizer, folder: aside.path(), progress, done: 0, total };
    let mut corpora = Vec::new();
    for (index, (corpus, survey)) in spec.corpora.iter().zip(surveys).enumerate() {
        corpora.push(encoding.corpus(corpus, survey, index, seed, spec.validation)?);
    }
    let manifest = Manifest::new(settings, record(&tokenizer, aside.path())?, corpora);
    let mut file = HashedFile::create(&aside.path().join(manifest::NAME))?;
    let text = serde_json::to_vec_pretty(&manifest);
    file.write(
        &text
            .map_err(|e| Problem::new(format!("data.json cannot be written: {e}"), "report this as a bug"))?,
    )?;
    file.finish()?;
    aside.commit()?;
    Ok(manifest.prepared(folder, false))
}

fn check_spec(spec: &DataSpec) -> Result<()> {
    if spec.corpora.is_empty() {
        return Err(Problem::new("the run has no corpora", "name at least one text file in `data.corpora`"));
    }
    if !(0.0..1.0).contains(&spec.validation) {
        return Err(Problem::new(
            format!("`data.validation` is {}", spec.validation),
            "it is the share of documents that is held out: at least 0, less than 1",
        ));
    }
    Ok(())
}

fn check_vocabulary(tokenizer: u32, model: u32) -> Result<()> {
    if tokenizer <= model {
        return Ok(());
    }
    Err(Problem::new(
        format!("the tokenizer has {tokenizer} tokens, the model's vocabulary only {model}"),
        format!("set `model.vocabulary` to at least {tokenizer}, or give a smaller tokenizer"),
    ))
}

fn record(tokenizer: &Tokenizer, folder: &Path) -> Result<TokenizerRecord> {
    let mut file = FileRecord::of(&folder.join("tokenizer.json"), &mut |_| ())?;
    (file.path, file.modified_ns) = ("tokenizer.json".into(), 0);
    Ok(TokenizerRecord {
        file,
        vocabulary: tokenizer.vocabulary(),
        end_of_document: tokenizer.end_of_document(),
    })
}

/// What one look at a corpus tells.
struct Survey {
    sources: Vec<FileRecord>,
    /// The prefix of shards that are used in place.
    foreign: Option<PathBuf>,
    documents: u64,
    /// Of text.
    bytes: u64,
}

/// Reads everything once: counts documents, hashes files, finds what is wrong, and samples the text.
fn survey(
    spec: &DataSpec,
    seed: u64,
    folder: &Path,
    sample: &mut Option<Sample>,
    progress: Progress,
) -> Result<Vec<Survey>> {
    let mut listed = Vec::new();
    for corpus in &spec.corpora {
        let foreign = foreign::prefix_of(&corpus.path);
        if foreign.is_some() && spec.tokenizer.is_none() {
            return Err(Problem::new(
                format!("corpus {} is made of tokens already, but the run names no tokenizer", corpus.path),
                "give the tokenizer that the shards were made with as `data.tokenizer`",
            ));
        }
        let files = match &foreign {
            Some(prefix) => foreign::files_of(prefix).to_vec(),
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
struct Sample {
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

    fn texts(self) -> impl Iterator<Item = String> {
        self.kept.into_iter().map(|(_, text)| text)
    }
}

/// The second pass: tokens into shards.
struct Encoding<'a> {
    tokenizer: &'a Tokenizer,
    folder: &'a Path,
    progress: Progress<'a>,
    /// Bytes of text.
    done: u64,
    total: u64,
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
        for source in &survey.sources {
            self.source(corpus, Path::new(&source.path), &mut sides)?;
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
        })
    }

    fn source(&mut self, corpus: &CorpusSpec, path: &Path, sides: &mut Sides) -> Result<()> {
        let whole_documents = !self.tokenizer.joins_pieces();
        let mut waiting: Vec<Part> = Vec::new();
        let mut waiting_bytes = 0;
        for piece in corpus::pieces(corpus, path)? {
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
                self.flush(&mut waiting, sides)?;
                waiting_bytes = 0;
            }
        }
        self.flush(&mut waiting, sides)
    }

    /// Encodes what is waiting, on all threads, and writes it in order.
    fn flush(&mut self, waiting: &mut Vec<Part>, sides: &mut Sides) -> Result<()> {
        let encoded: Vec<Vec<u32>> =
            waiting.par_iter().map(|part| self.tokenizer.encode(&part.piece.text)).collect();
        for (part, tokens) in waiting.drain(..).zip(encoded) {
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

/// A piece that knows where it goes.
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
    /// The current one's number.
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
            for file in crate::foreign::files_of(&self.prefix) {
                std::fs::remove_file(&file).map_err(|e| Problem::io("remove", &file, &e))?;
            }
            return Ok(None);
        }
        let (documents, text_bytes) = (self.documents, self.text_bytes);
        Ok(Some(ShardRecord { documents, tokens, text_bytes, idx, bin, in_place: false }))
    }
}

/// The last part of a path, fit for a file name of ours.
fn plain_name(path: &str) -> String {
    let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    name.chars().map(plain).take(40).collect()
}
