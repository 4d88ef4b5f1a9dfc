//! `data.json`: what the shards of a folder were made of, so that a run does not train on other data
//! unnoticed.

use crate::corpus;
use crate::files::{self, FileRecord};
use crate::progress::{Progress, Stage};
use crate::record::{CorpusRecord, ShardRecord, TokenizerRecord};
use crate::shards;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::{CorpusSpec, DataSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub(crate) const NAME: &str = "data.json";
const FORMAT: u32 = 1;
/// Files up to this size are hashed again each time, larger ones only when their time of change differs.
const ALWAYS_HASHED_BYTES: u64 = 64 << 20;

/// A prepared folder, made now or before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prepared {
    /// The folder of the shards.
    pub folder: PathBuf,
    /// Its `tokenizer.json`.
    pub tokenizer_path: PathBuf,
    /// Tokens of the tokenizer.
    pub vocabulary: u32,
    /// Documents of all corpora, held-out ones included.
    pub documents: u64,
    /// Tokens of all documents, the ends of documents included.
    pub tokens: u64,
    /// UTF-8 bytes of text; of shards that are used in place, only the held-out text counts.
    pub bytes: u64,
    /// Each corpus, in the order of the run.
    pub corpora: Vec<PreparedCorpus>,
    /// The folder was complete already.
    pub reused: bool,
    /// Notes for the user, each a sentence.
    pub notes: Vec<String>,
}

/// The numbers of one corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PreparedCorpus {
    /// The path that the user gave.
    pub path: String,
    /// All its documents.
    pub documents: u64,
    /// Tokens of all its documents.
    pub tokens: u64,
    /// UTF-8 bytes of their text.
    pub bytes: u64,
    /// Held-out documents.
    pub validation_documents: u64,
    /// Tokens of the held-out documents.
    pub validation_tokens: u64,
    /// UTF-8 bytes of the held-out text.
    pub validation_bytes: u64,
}

/// The contents of `data.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub format: u32,
    pub settings: Settings,
    pub tokenizer: TokenizerRecord,
    pub corpora: Vec<CorpusRecord>,
}

/// The settings that the shards depend on. Sequence length and weights are free to change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub seed: u64,
    pub validation: f64,
    /// Path of the tokenizer that was given; none where one is trained.
    pub tokenizer: Option<String>,
    /// Size of the tokenizer that is trained; none where one was given.
    pub vocabulary: Option<u32>,
    pub corpora: Vec<CorpusSettings>,
}

/// The settings of one corpus that its shards depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CorpusSettings {
    pub path: String,
    pub field: String,
    pub split: Option<String>,
    /// Whether text that spells a special token is read as the token; unknown of shards of older releases,
    /// which did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special_tokens: Option<bool>,
}

impl Settings {
    pub(crate) fn of(spec: &DataSpec, vocabulary: u32, seed: u64) -> Settings {
        let corpus = |corpus: &CorpusSpec| CorpusSettings {
            path: corpus.path.clone(),
            field: corpus.field.clone(),
            split: corpus.split.clone(),
            special_tokens: Some(corpus.special_tokens),
        };
        Settings {
            seed,
            validation: spec.validation,
            tokenizer: spec.tokenizer.clone(),
            vocabulary: spec.tokenizer.is_none().then_some(vocabulary),
            corpora: spec.corpora.iter().map(corpus).collect(),
        }
    }

    /// The first setting that differs, with both values.
    fn difference(&self, now: &Settings) -> Option<String> {
        let mut now = now.clone();
        for (is, was) in now.corpora.iter_mut().zip(&self.corpora) {
            // Shards of older releases are used as they are.
            is.special_tokens = was.special_tokens.and(is.special_tokens);
        }
        if *self == now {
            return None;
        }
        let pairs = [
            ("seed", self.seed.to_string(), now.seed.to_string()),
            ("data.validation", self.validation.to_string(), now.validation.to_string()),
            ("data.tokenizer", shown(self.tokenizer.as_ref()), shown(now.tokenizer.as_ref())),
            ("model.vocabulary", shown(self.vocabulary.as_ref()), shown(now.vocabulary.as_ref())),
        ];
        let pair = pairs.into_iter().find(|(_, was, is)| was != is);
        let (name, was, is) = pair.unwrap_or_else(|| {
            let list = |settings: &Settings| {
                let list: Vec<_> = settings.corpora.iter().map(CorpusSettings::shown).collect();
                list.join(", ")
            };
            ("data.corpora", list(self), list(&now))
        });
        Some(format!("{name} = {was}, and now {is}"))
    }
}

impl CorpusSettings {
    fn shown(&self) -> String {
        let split = self.split.as_ref().map(|split| format!(" split at `{split}`")).unwrap_or_default();
        let special = if self.special_tokens == Some(true) { ", special tokens" } else { "" };
        format!("{} (field `{}`{split}{special})", self.path, self.field)
    }
}

fn shown<T: ToString>(value: Option<&T>) -> String {
    value.map_or("none".into(), T::to_string)
}

impl Manifest {
    pub(crate) fn new(
        settings: Settings,
        tokenizer: TokenizerRecord,
        corpora: Vec<CorpusRecord>,
    ) -> Manifest {
        Manifest { format: FORMAT, settings, tokenizer, corpora }
    }

    /// Reads the manifest of a folder; none where there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Manifest>> {
        let path = folder.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => return Ok(None),
            Err(e) => return Err(Problem::io("read", &path, &e)),
        };
        let wrong = |problem: String| {
            Problem::new(
                format!("{} {problem}", path.display()),
                format!("delete the folder {} to prepare the data again", folder.display()),
            )
            .of(ProblemKind::Damaged)
        };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        match serde_json::from_slice::<Format>(&bytes) {
            Ok(Format { format }) if format != FORMAT => {
                Err(wrong(format!("has format {format}; this Lingot reads format {FORMAT}")))
            }
            _ => serde_json::from_slice(&bytes).map(Some).map_err(|e| wrong(format!("is corrupt: {e}"))),
        }
    }

    pub(crate) fn validation_bytes(&self) -> u64 {
        self.corpora
            .iter()
            .filter_map(|corpus| corpus.validation.as_ref())
            .map(|shards| shards.text_bytes)
            .sum()
    }

    /// Errors if nothing can be evaluated: no token is held out that follows on another of its document.
    pub(crate) fn check_held_out(&self) -> Result<()> {
        let held_out = self.corpora.iter().filter_map(|corpus| corpus.validation.as_ref());
        if held_out.map(|shards| shards.tokens - shards.documents.min(shards.tokens)).sum::<u64>() > 0 {
            return Ok(());
        }
        Err(Problem::new(
            "there is no held-out text to evaluate on",
            "raise `data.validation`, or add documents to the corpora",
        )
        .of(ProblemKind::Input))
    }

    /// Errors if settings, sources or tokenizer differ from those that the shards were made of.
    pub(crate) fn check(
        &self,
        spec: &DataSpec,
        now: &Settings,
        folder: &Path,
        progress: Progress,
    ) -> Result<()> {
        if let Some(difference) = self.settings.difference(now) {
            return Err(Problem::new(
                format!("the shards in {} were made with {difference}", folder.display()),
                "restore the setting, delete the folder to prepare it again, or choose another with \
                 `data.cache`",
            )
            .of(ProblemKind::Changed));
        }
        if let Some(given) = &spec.tokenizer
            && Path::new(given).exists()
        {
            let now = FileRecord::of(Path::new(given), &mut |_| ())?;
            check_same(&self.tokenizer.file, &now, Path::new(given), folder)?;
        }
        let total = self.corpora.iter().flat_map(|corpus| &corpus.sources).map(|source| source.bytes).sum();
        let mut done = 0;
        for (record, corpus) in self.corpora.iter().zip(&spec.corpora) {
            check_sources(record, corpus, folder, &mut |read| {
                done += read;
                progress(Stage { name: "checking", done, total });
            })?;
        }
        Ok(())
    }

    /// The summary for the user.
    pub(crate) fn prepared(self, folder: &Path, reused: bool) -> Prepared {
        let corpora: Vec<PreparedCorpus> = self.corpora.iter().map(CorpusRecord::prepared).collect();
        Prepared {
            folder: folder.into(),
            tokenizer_path: folder.join(&self.tokenizer.file.path),
            vocabulary: self.tokenizer.vocabulary,
            documents: corpora.iter().map(|corpus| corpus.documents).sum(),
            tokens: corpora.iter().map(|corpus| corpus.tokens).sum(),
            bytes: corpora.iter().map(|corpus| corpus.bytes).sum(),
            corpora,
            reused,
            notes: self
                .corpora
                .into_iter()
                .flat_map(|corpus| corpus.note.into_iter().chain(corpus.notes))
                .collect(),
        }
    }
}

impl CorpusRecord {
    fn prepared(&self) -> PreparedCorpus {
        let sum =
            |of: fn(&ShardRecord) -> u64| self.training.iter().chain(&self.validation).map(of).sum::<u64>();
        let held_out = |of: fn(&ShardRecord) -> u64| self.validation.as_ref().map_or(0, of);
        PreparedCorpus {
            path: self.path.clone(),
            documents: self.documents,
            tokens: sum(|shards| shards.tokens),
            bytes: sum(|shards| shards.text_bytes),
            validation_documents: held_out(|shards| shards.documents),
            validation_tokens: held_out(|shards| shards.tokens),
            validation_bytes: held_out(|shards| shards.text_bytes),
        }
    }
}

/// Errors if the files of a corpus differ from those its shards were made of. A corpus that is absent
/// altogether is no error: shards may be copied to another machine without their sources.
fn check_sources(
    record: &CorpusRecord,
    corpus: &CorpusSpec,
    folder: &Path,
    report: &mut dyn FnMut(u64),
) -> Result<()> {
    let now = match shards::prefix_of(&corpus.path) {
        Some(prefix) => shards::files_of(&prefix).to_vec(),
        None if !Path::new(&corpus.path).exists() => return Ok(()),
        None => corpus::sources(corpus, folder)?,
    };
    let mut known: BTreeMap<&str, &FileRecord> =
        record.sources.iter().map(|source| (source.path.as_str(), source)).collect();
    for path in now {
        let about = fs::metadata(&path).map_err(|e| Problem::io("read", &path, &e))?;
        let Some(before) = known.remove(&*path.to_string_lossy()) else {
            if about.len() == 0 {
                continue;
            }
            return Err(changed(folder, format!("{} ({} bytes) was added", path.display(), about.len())));
        };
        if !about.is_file() {
            // A pipe, for example, can be read only once.
            continue;
        }
        let untouched = about.len() == before.bytes && files::modified_ns(&about) == before.modified_ns;
        if untouched && before.bytes > ALWAYS_HASHED_BYTES {
            report(before.bytes);
            continue;
        }
        check_same(before, &FileRecord::of(&path, report)?, &path, folder)?;
    }
    match known.into_values().next() {
        None => Ok(()),
        Some(gone) => Err(changed(folder, format!("{} ({} bytes) was removed", gone.path, gone.bytes))),
    }
}

fn check_same(before: &FileRecord, now: &FileRecord, path: &Path, folder: &Path) -> Result<()> {
    if before.hash == now.hash {
        return Ok(());
    }
    let is =
        |file: &FileRecord| format!("{} bytes, BLAKE3 {}", file.bytes, &file.hash[..16.min(file.hash.len())]);
    Err(changed(folder, format!("{} had {}, and now {}", path.display(), is(before), is(now))))
}

fn changed(folder: &Path, what: String) -> Problem {
    Problem::new(
        format!("the corpus changed since the shards in {} were made: {what}", folder.display()),
        "delete the folder to prepare it again, or restore the file",
    )
    .of(ProblemKind::Changed)
}
