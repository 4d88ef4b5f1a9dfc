//! `lingot data`: text becomes a tokenizer and shards, before or without a run.

use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::terminal::{Progress, Terminal, bytes, count, show_stage};
use lingot_data::{Prepared, PreparedCorpus};
use lingot_spec::run::{CorpusSpec, DataSpec};
use lingot_spec::{Problem, ProblemKind};
use lingot_train::{config, data};
use serde::Serialize;
use std::path::PathBuf;

/// Turn text into a tokenizer and Megatron shards, as `lingot train` would
///
/// A path is a file of text, JSON records or Parquet, plain or packed by gzip or Zstandard, a pipe,
/// or a folder of such files. What a file is shows in its content, whatever its name.
/// Give one RUN.toml, or paths and --out. The folder gets tokenizer.json and shards (.bin and .idx).
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot data runs/quickstart.toml
  lingot data plays.txt letters/ --out shards --vocabulary 4096
  lingot data web.jsonl.zst --field body --tokenizer tokenizer.json --out shards"
)]
pub struct Args {
    /// One RUN.toml, or texts
    #[arg(value_name = "RUN.toml | PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Override a key of RUN.toml; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The new folder, when texts are named; it may exist if it is empty
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Train a tokenizer of this many tokens, 4096 unless given; with --tokenizer, refuse one that has
    /// more
    #[arg(long, value_name = "TOKENS")]
    vocabulary: Option<u32>,
    /// Use this tokenizer.json in place of training one
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<String>,
    /// The key or column that holds the text, in JSON records and Parquet; `text` unless given
    #[arg(long)]
    field: Option<String>,
    /// Begin a new document at each line of plain text that matches this regular expression
    #[arg(long, value_name = "REGEX")]
    split: Option<String>,
    /// Read special tokens that texts spell, such as `</s>`, as these tokens and not as text
    #[arg(long)]
    special_tokens: bool,
    /// Hold out this share of the documents, from 0 to below 1; 0.05 unless given
    #[arg(long, value_name = "SHARE")]
    validation: Option<f64>,
    /// Choose the documents that are held out by this seed; 0 unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    folder: String,
    tokenizer: String,
    vocabulary: u32,
    documents: u64,
    tokens: u64,
    bytes: u64,
    tokens_per_byte: f64,
    /// The folder was complete already.
    reused: bool,
    corpora: Vec<PreparedCorpus>,
    notes: Vec<String>,
}

pub fn run(args: &Args, terminal: &Terminal) -> Result<()> {
    let (spec, vocabulary, seed, folder) = wanted(args)?;
    let progress = Progress::new(terminal);
    let prepared =
        lingot_data::prepare(&spec, vocabulary, seed, &folder, &|stage| show_stage(&progress, stage));
    progress.finish();
    let report = Report::new(prepared.map_err(wrong_input)?);
    if args.json { output::json(&report) } else { report.print() }
}

/// Whatever is wrong with corpora is wrong input, except where the disk cannot take the shards.
pub fn wrong_input(problem: Problem) -> Failure {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match problem.kind {
        ProblemKind::Io(StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem) => problem.into(),
        _ => Failure::from(problem).with(Code::Input),
    }
}

/// The data to prepare, the size of the vocabulary, the seed, and the folder.
fn wanted(args: &Args) -> Result<(DataSpec, u32, u64, PathBuf)> {
    let is_run = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    if let [path] = args.paths.as_slice()
        && is_run(path)
        && args.out.is_none()
    {
        args.refuse_options_of_texts()?;
        let run = config::load(path, &args.set).map_err(|error| Failure::from(error).with(Code::Input))?.run;
        let folder = data::data_folder(&run);
        return Ok((run.data, run.model.vocabulary, run.seed, folder));
    }
    let Some(folder) = args.out.clone() else {
        return Err(Failure::input(
            "--out is missing: where should the shards of these texts lie?",
            "name a new folder: --out shards; or name one RUN.toml",
        ));
    };
    if let Some(set) = args.set.first() {
        return Err(Failure::input(
            format!("--set {set} overrides a key of a RUN.toml, but texts are named"),
            "leave it out; --vocabulary, --field, --split, --validation and --seed are the settings of texts",
        ));
    }
    let corpus = |path: &PathBuf| CorpusSpec {
        path: path.display().to_string(),
        weight: 1.0,
        field: args.field.clone().unwrap_or_else(|| "text".into()),
        split: args.split.clone(),
        special_tokens: args.special_tokens,
    };
    let spec = DataSpec {
        corpora: args.paths.iter().map(corpus).collect(),
        tokenizer: args.tokenizer.clone(),
        validation: args.validation.unwrap_or(0.05),
        sequence: 256,
        cache: None,
    };
    Ok((spec, args.vocabulary.unwrap_or(4096), args.seed.unwrap_or(0), folder))
}

impl Args {
    /// Errors if an option is given that a RUN.toml has a key for.
    fn refuse_options_of_texts(&self) -> Result<()> {
        let given = [
            ("--vocabulary", "model.vocabulary", self.vocabulary.is_some()),
            ("--tokenizer", "data.tokenizer", self.tokenizer.is_some()),
            ("--field", "data.corpora.0.field", self.field.is_some()),
            ("--split", "data.corpora.0.split", self.split.is_some()),
            ("--special-tokens", "data.corpora.0.special_tokens", self.special_tokens),
            ("--validation", "data.validation", self.validation.is_some()),
            ("--seed", "seed", self.seed.is_some()),
        ];
        let Some((option, key, _)) = given.into_iter().find(|(_, _, is_given)| *is_given) else {
            return Ok(());
        };
        Err(Failure::input(
            format!("{option} is a setting of texts, but a RUN.toml is named"),
            format!("override the key of RUN.toml: --set {key}=..."),
        ))
    }
}

impl Report {
    fn new(prepared: Prepared) -> Report {
        Report {
            folder: prepared.folder.display().to_string(),
            tokenizer: prepared.tokenizer_path.display().to_string(),
            vocabulary: prepared.vocabulary,
            documents: prepared.documents,
            tokens: prepared.tokens,
            bytes: prepared.bytes,
            tokens_per_byte: prepared.tokens as f64 / prepared.bytes.max(1) as f64,
            reused: prepared.reused,
            corpora: prepared.corpora,
            notes: prepared.notes,
        }
    }

    fn print(&self) -> Result<()> {
        let mut text = String::new();
        for corpus in &self.corpora {
            text += &format!(
                "{}: {} documents, {} tokens, {} held out\n",
                corpus.path,
                corpus.documents,
                count(corpus.tokens as f64),
                count(corpus.validation_tokens as f64)
            );
        }
        text += &format!(
            "in all {} documents, {} tokens, {}, {:.3} tokens per byte\n",
            self.documents,
            count(self.tokens as f64),
            bytes(self.bytes),
            self.tokens_per_byte
        );
        text += &format!("tokenizer of {} tokens: {}\n", self.vocabulary, self.tokenizer);
        text.extend(self.notes.iter().map(|note| format!("note: {note}\n")));
        let state = if self.reused { "was complete already" } else { "is complete" };
        output::result(&format!("{text}{} {state}\n", self.folder))
    }
}
