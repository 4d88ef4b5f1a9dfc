//! The batch of a step: a pure function of the seed and the number of the sample.

use crate::manifest::Manifest;
use crate::order::{Mixture, hash, shuffled};
use crate::origin::{DataFiles, Origin};
use crate::record::ShardRecord;
use crate::shards::{Read, Shards};
use lingot_spec::manifest::DataHashes;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::DataSpec;
use std::collections::BTreeSet;
use std::path::Path;

/// Sequences of tokens, and each token's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows of the batch.
    pub sequences: usize,
    /// Tokens per sequence.
    pub sequence: usize,
    /// `sequences * sequence` tokens, row by row.
    pub tokens: Vec<i32>,
    /// The token after each; -1 at the last token of a document and in padding.
    pub targets: Vec<i32>,
    /// For each token, the index within the batch of the first token of its document in its row.
    pub starts: Vec<i32>,
    /// For each token, how many tokens of its document come before it in its row.
    pub positions: Vec<i32>,
}

/// The shards of a run, opened.
///
/// For training, the documents of a corpus are joined into a ring. In each epoch the ring is cut into whole
/// sequences from an offset that follows from `(seed, corpus, epoch)`, and these are visited in an order that
/// follows from the same. So a sample costs constant time, nothing repeats inside an epoch, and a resumed run
/// has no loader state to restore.
pub struct Dataset {
    seed: u64,
    sequence: usize,
    vocabulary: u32,
    end_of_document: i64,
    mixture: Mixture,
    /// By corpus of the mixture: `check_length` refuses a corpus without training text, so none is missing.
    training: Vec<Shards>,
    /// One for each corpus that has held-out text.
    validation: Vec<Shards>,
    validation_bytes: u64,
    validation_windows: u64,
    notes: Vec<String>,
    hashes: DataHashes,
    files: DataFiles,
    places: Vec<Origin>,
}

impl Dataset {
    /// Opens what `prepare` wrote. Only `sequence` and the weights are taken from `spec`; they may differ
    /// from those of the preparation.
    pub fn open(spec: &DataSpec, folder: &Path, seed: u64) -> Result<Dataset> {
        let manifest = Manifest::read(folder)?.ok_or_else(|| {
            Problem::new(
                format!("{} holds no data.json", folder.display()),
                "prepare the data first: `lingot data`",
            )
            .of(ProblemKind::Input)
        })?;
        if manifest.corpora.len() != spec.corpora.len() {
            return Err(Problem::new(
                format!(
                    "{} was made of {} corpora, but the run has {}",
                    folder.display(),
                    manifest.corpora.len(),
                    spec.corpora.len()
                ),
                "delete the folder to prepare it again",
            )
            .of(ProblemKind::Changed));
        }
        check_weights(spec)?;
        manifest.check_tokenizer(folder)?;
        let sequence = spec.sequence as usize;
        let (mut training, mut validation) = (Vec::new(), Vec::new());
        for corpus in &manifest.corpora {
            corpus.check_length(u64::from(spec.sequence))?;
            training.extend(corpus.training.as_ref().map(|shards| open(shards, folder)).transpose()?);
            let held_out = corpus.validation.as_ref().map(|shards| open(shards, folder)).transpose()?;
            validation.extend(held_out.filter(|shards| shards.tokens() > 0));
        }
        let weights: Vec<f64> = spec.corpora.iter().map(|corpus| corpus.weight).collect();
        Ok(Dataset {
            seed,
            sequence,
            vocabulary: manifest.tokenizer.vocabulary,
            end_of_document: i64::from(manifest.tokenizer.end_of_document),
            mixture: Mixture::new(&weights),
            validation_windows: validation.iter().map(|shards| windows(shards, sequence)).sum(),
            validation_bytes: manifest.validation_bytes(),
            notes: manifest.corpora.iter().flat_map(|corpus| corpus.notes.clone()).collect(),
            hashes: manifest.hashes(),
            files: DataFiles::of(&manifest, folder),
            places: Origin::all(&manifest),
            training,
            validation,
        })
    }

    /// Notes for the user about the text sources, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The hashes of what the samples are made of.
    pub fn hashes(&self) -> &DataHashes {
        &self.hashes
    }

    /// The prepared files, to be compared with their hashes.
    pub fn files(&self) -> DataFiles {
        self.files.clone()
    }

    /// The documents that training sequences `first_sample..first_sample + samples` are cut from, each once
    /// and in words, such as `document 7 of text.jsonl`; documents count from 1, blank ones left out.
    pub fn documents_of(&self, first_sample: u64, samples: u32) -> Result<Vec<String>> {
        let mut found = BTreeSet::new();
        for (corpus, index) in self.mixture.deal(first_sample, samples) {
            let shards = &self.training[corpus];
            let at = self.place(corpus as u64, index, shards.tokens());
            let documents = shards.documents_at(at, self.sequence as u64)?;
            found.extend(documents.into_iter().map(|document| (corpus, document)));
        }
        Ok(found.into_iter().map(|(corpus, document)| self.places[corpus].name(document as u64)).collect())
    }

    /// Number of tokens in all training documents.
    pub fn training_tokens(&self) -> u64 {
        self.training.iter().map(Shards::tokens).sum()
    }

    /// Number of tokens in all held-out documents.
    pub fn validation_tokens(&self) -> u64 {
        self.validation.iter().map(Shards::tokens).sum()
    }

    /// Number of sequences that hold all held-out documents; the last of each corpus is padded.
    pub fn validation_sequences(&self) -> u64 {
        self.validation_windows
    }

    /// Number of UTF-8 bytes in all held-out documents.
    pub fn validation_bytes(&self) -> u64 {
        self.validation_bytes
    }

    /// How many times the training tokens have been seen before this sample, on average over the corpora.
    pub fn epoch(&self, sample: u64) -> f64 {
        let whole: u64 = self.training.iter().map(|shards| shards.tokens() / self.sequence as u64).sum();
        sample as f64 / whole as f64
    }

    /// Training sequences `first_sample..first_sample + samples`.
    pub fn training(&self, first_sample: u64, samples: u32) -> Result<Batch> {
        let mut batch = Batch::with_capacity(samples as usize, self.sequence);
        for (corpus, index) in self.mixture.deal(first_sample, samples) {
            let shards = &self.training[corpus];
            let at = self.place(corpus as u64, index, shards.tokens());
            let read = shards.read(at, self.sequence + 1)?;
            self.check(shards, &read)?;
            batch.push(&read[..self.sequence], read.last(), self.end_of_document);
        }
        Ok(batch)
    }

    /// Held-out sequences `first..first + samples`, in a fixed order such that any prefix samples all
    /// documents evenly. Rows past the last sequence are padding without targets, so that a batch is always
    /// full.
    pub fn validation(&self, first: u64, samples: u32) -> Result<Batch> {
        let mut batch = Batch::with_capacity(samples as usize, self.sequence);
        let stride = spread(self.validation_windows);
        for index in first..first + u64::from(samples) {
            if index >= self.validation_windows {
                batch.push(&[], None, self.end_of_document);
                continue;
            }
            let index = (u128::from(index) * u128::from(stride)) % u128::from(self.validation_windows);
            let (shards, at) = self.window(index as u64);
            let count = (shards.tokens() - at).min(self.sequence as u64 + 1) as usize;
            let read = shards.read(at, count)?;
            self.check(shards, &read)?;
            let after = read.get(self.sequence);
            batch.push(&read[..count.min(self.sequence)], after, self.end_of_document);
        }
        Ok(batch)
    }

    /// Where in its corpus the `index`-th sample of that corpus begins.
    fn place(&self, corpus: u64, index: u64, tokens: u64) -> u64 {
        let sequence = self.sequence as u64;
        let whole = tokens / sequence;
        let (epoch, index) = (index / whole, index % whole);
        let key = hash(&[self.seed, corpus, epoch]);
        let offset = hash(&[key, 0]) % sequence;
        (offset + shuffled(key, index, whole) * sequence) % tokens
    }

    /// The held-out corpus of a window and where in it the window begins.
    fn window(&self, mut index: u64) -> (&Shards, u64) {
        let mut chosen = &self.validation[0];
        for shards in &self.validation {
            chosen = shards;
            let here = windows(shards, self.sequence);
            if index < here {
                break;
            }
            index -= here;
        }
        (chosen, index * self.sequence as u64)
    }

    fn check(&self, shards: &Shards, read: &[Read]) -> Result<()> {
        let range = 0..i64::from(self.vocabulary);
        match read.iter().find(|read| !range.contains(&read.token)) {
            None => Ok(()),
            Some(read) => Err(Problem::new(
                format!(
                    "the shards of {} hold token {}, but the tokenizer has tokens 0 to {}",
                    shards.path().display(),
                    read.token,
                    self.vocabulary - 1
                ),
                "the shards are corrupt or of another tokenizer; delete the data folder to make them again",
            )
            .of(ProblemKind::Damaged)),
        }
    }
}

fn check_weights(spec: &DataSpec) -> Result<()> {
    let wrong = spec.corpora.iter().find(|corpus| !(corpus.weight > 0.0 && corpus.weight.is_finite()));
    match wrong {
        None => Ok(()),
        Some(corpus) => Err(Problem::new(
            format!("corpus {} has weight {}", corpus.path, corpus.weight),
            "give a positive number, or leave the corpus out",
        )
        .of(ProblemKind::Input)),
    }
}

/// Windows that hold every token with a target; the last token has none.
fn windows(shards: &Shards, sequence: usize) -> u64 {
    (shards.tokens() - 1).div_ceil(sequence as u64).max(1)
}

/// A stride near `count` / phi (the golden ratio) and coprime to `count`, so that it visits every index.
fn spread(count: u64) -> u64 {
    let golden = (count as f64 * 0.618_033_988_749_895) as u64;
    (golden.max(1)..).find(|&stride| greatest_common_divisor(stride, count) == 1).unwrap_or(1)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn open(record: &ShardRecord, folder: &Path) -> Result<Shards> {
    for file in [&record.idx, &record.bin] {
        let path = record.locate(file, folder);
        let about = std::fs::metadata(&path).map_err(|e| Problem::io("open", &path, &e))?;
        if about.len() != file.bytes {
            return Err(Problem::new(
                format!("{} has {} bytes, but data.json says {}", path.display(), about.len(), file.bytes),
                "it is truncated or was changed; delete the data folder to make it again",
            )
            .of(ProblemKind::Damaged));
        }
    }
    Shards::open_files(&record.locate(&record.idx, folder), &record.locate(&record.bin, folder))
}

impl Batch {
    fn with_capacity(sequences: usize, sequence: usize) -> Batch {
        let empty = || Vec::with_capacity(sequences * sequence);
        Batch {
            sequences: 0,
            sequence,
            tokens: empty(),
            targets: empty(),
            starts: empty(),
            positions: empty(),
        }
    }

    /// Adds a row; `after` is the token after its last. A short row is padded; the padding forms a document
    /// of its own.
    fn push(&mut self, row: &[Read], after: Option<&Read>, end_of_document: i64) {
        let first = self.tokens.len();
        let mut start = first;
        for (place, read) in row.iter().enumerate() {
            let begins = read.begins || (place > 0 && row[place - 1].token == end_of_document);
            if begins {
                start = first + place;
            }
            let next = row.get(place + 1).or(after);
            let target = next.filter(|next| !next.begins && read.token != end_of_document);
            self.push_token(read.token as i32, target.map_or(-1, |next| next.token as i32), start);
        }
        let padding = first + row.len();
        while self.tokens.len() < first + self.sequence {
            self.push_token(end_of_document as i32, -1, padding);
        }
        self.sequences += 1;
    }

    fn push_token(&mut self, token: i32, target: i32, start: usize) {
        self.positions.push((self.tokens.len() - start) as i32);
        self.tokens.push(token);
        self.targets.push(target);
        self.starts.push(start as i32);
    }
}
