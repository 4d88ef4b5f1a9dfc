//! `lingot eval`: scores a trained model on text and on multiple-choice questions.

use crate::checkpoint::{self, DeviceArgs, Found};
use crate::data::wrong_input;
use crate::failure::{Failure, Result};
use crate::output;
use crate::records::{self, Record};
use crate::terminal::{Progress, Terminal, count};
use lingot_data::{Dataset, Tokenizer};
use lingot_model::Model;
use lingot_spec::run::{CorpusSpec, EvaluationSpec};
use lingot_train::questions::question;
use lingot_train::score::{ChoiceScorer, Question, TextScorer, share};
use lingot_train::{data, evaluate};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Score a model on text and on multiple-choice questions
///
/// Without --data and --choices, the run's own held-out text is scored.
/// Text gives loss, perplexity and bits per byte; questions give accuracy.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot eval out/quickstart
  lingot eval out/quickstart --data README.md --json
  lingot eval out/quickstart --choices questions.jsonl

A line of --choices: {\"question\": \"Two and two are\", \"choices\": [\"four\", \"five\"], \"answer\": 0}
The records of ARC, BoolQ, COPA, HellaSwag, MMLU, OpenBookQA, PIQA and SciQ are
read too, and asked as lm-evaluation-harness asks them."
)]
pub struct Args {
    /// A run's folder, a checkpoint in it, or an imported model
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Score this text: a file of text, JSON records or Parquet, or a folder of those
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The key or column that holds the text, in JSON records and Parquet
    #[arg(long, default_value = "text")]
    field: String,
    /// Score these multiple-choice questions, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    choices: Option<PathBuf>,
    /// Show the model this many tokens at once [default: as in training]
    #[arg(long)]
    sequence: Option<u32>,
    /// Score at most this many held-out sequences [default: as in training]
    #[arg(long, conflicts_with_all = ["data", "choices"])]
    sequences: Option<u32>,
    /// Use this tokenizer.json instead of the one found with the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Read special tokens that texts spell, such as `</s>`, as these tokens and not as text
    #[arg(long)]
    special_tokens: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Tokens that the model sees at once, where neither run nor user says it.
const USUAL_SEQUENCE: u32 = 1024;

/// The object of `--json`.
#[derive(Serialize)]
struct Scores {
    checkpoint: String,
    step: u64,
    text: Option<TextScores>,
    choices: Option<ChoiceScores>,
}

#[derive(Serialize)]
struct TextScores {
    /// `held out`, or the path that was given.
    source: String,
    loss: f64,
    perplexity: f64,
    bits_per_byte: Option<f64>,
    tokens: u64,
}

#[derive(Serialize)]
struct ChoiceScores {
    source: String,
    questions: u64,
    accuracy: f64,
    accuracy_error: f64,
    accuracy_normalised: f64,
    accuracy_normalised_error: f64,
}

pub fn run(args: &Args, terminal: &Terminal) -> Result<()> {
    for (option, number) in [("--sequence", args.sequence), ("--sequences", args.sequences)] {
        if number == Some(0) {
            return Err(Failure::input(format!("{option} is 0"), "give at least 1"));
        }
    }
    let found = checkpoint::find(&args.checkpoint)?;
    let questions = args.choices.as_ref().map(|path| read_questions(path)).transpose()?;
    let corpus = args.data.as_ref().map(|path| corpus_of(args, path));
    let sources = corpus.as_ref().map(|corpus| lingot_data::sources(corpus, Path::new(""))).transpose();
    let sources = sources.map_err(wrong_input)?;
    let tokenizer = match (&corpus, &questions) {
        (None, None) => None,
        _ => {
            let tokenizer = found.tokenizer(args.tokenizer.as_deref())?;
            Some(tokenizer.reading_special_tokens(args.special_tokens))
        }
    };
    let (model, _) = evaluate::load_model(&found.path, &args.device.open()?)?;
    let progress = Progress::new(terminal);
    let text = match (&corpus, &sources, &tokenizer) {
        (Some(corpus), Some(sources), Some(tokenizer)) => {
            let run = found.run.as_ref().map(|run| run.data.sequence);
            let sequence = args.sequence.or(run).unwrap_or(USUAL_SEQUENCE) as usize;
            let texts = Texts { corpus, sources, sequence };
            Some(score_text(&texts, &model, tokenizer, &progress)?)
        }
        _ if questions.is_none() => Some(score_held_out(args, &found, &model)?),
        _ => None,
    };
    let choices = match (&args.choices, questions, &tokenizer) {
        (Some(path), Some(questions), Some(tokenizer)) => {
            Some(score_choices(&model, tokenizer, path, &questions, &progress)?)
        }
        _ => None,
    };
    progress.finish();
    let scores = Scores {
        checkpoint: found.path.display().to_string(),
        step: found.manifest.head.step,
        text,
        choices,
    };
    if args.json { output::json(&scores) } else { scores.print() }
}

fn corpus_of(args: &Args, path: &Path) -> CorpusSpec {
    CorpusSpec {
        path: path.display().to_string(),
        weight: 1.0,
        field: args.field.clone(),
        split: None,
        special_tokens: args.special_tokens,
    }
}

impl Scores {
    fn print(&self) -> Result<()> {
        let mut text = format!("checkpoint     {} (step {})\n", self.checkpoint, self.step);
        if let Some(scores) = &self.text {
            let bits = scores.bits_per_byte.map_or("unknown".into(), |bits| format!("{bits:.4}"));
            text += &format!("text           {}, {} tokens\n", scores.source, count(scores.tokens as f64));
            text += &format!("loss           {:.4}\nperplexity     {:.3}\n", scores.loss, scores.perplexity);
            text += &format!("bits per byte  {bits}\n");
        }
        if let Some(scores) = &self.choices {
            text += &format!("questions      {} of {}\n", scores.questions, scores.source);
            text += &format!("accuracy       {:.4} +- {:.4}\n", scores.accuracy, scores.accuracy_error);
            let (accuracy, error) = (scores.accuracy_normalised, scores.accuracy_normalised_error);
            text += &format!("per byte       {accuracy:.4} +- {error:.4}\n");
        }
        output::result(&text)
    }
}

fn score_held_out(args: &Args, found: &Found, model: &Model) -> Result<TextScores> {
    let run = found.run.as_ref().ok_or_else(|| {
        Failure::input(
            format!("{} is of no run of this program, so it has no held-out text", found.path.display()),
            "name a text to score: --data FILE",
        )
    })?;
    let folder = found.data_folder().unwrap_or_else(|| data::data_folder(run));
    let mut data = run.data.clone();
    data.sequence = args.sequence.unwrap_or(data.sequence);
    let dataset = Dataset::open(&data, &folder, run.seed)?;
    let sequences = args.sequences.unwrap_or(run.evaluation.sequences);
    let scored = evaluate::held_out(model, &dataset, &EvaluationSpec { every: 0, sequences }, &run.batch)?;
    Ok(TextScores {
        source: "held out".into(),
        loss: scored.loss,
        perplexity: scored.loss.exp(),
        bits_per_byte: scored.bits_per_byte,
        tokens: scored.tokens,
    })
}

/// Texts to score, and how many tokens the model sees at once.
struct Texts<'a> {
    corpus: &'a CorpusSpec,
    sources: &'a [PathBuf],
    sequence: usize,
}

fn score_text(
    texts: &Texts,
    model: &Model,
    tokenizer: &Tokenizer,
    progress: &Progress,
) -> Result<TextScores> {
    let mut scorer = TextScorer::new(model, texts.sequence);
    for (done, source) in texts.sources.iter().enumerate() {
        let mut document = String::new();
        let mut pieces = lingot_data::pieces(texts.corpus, source).map_err(wrong_input)?;
        for piece in pieces.by_ref() {
            let piece = piece.map_err(wrong_input)?;
            document += &piece.text;
            if piece.ends {
                let mut tokens = tokenizer.encode(&document);
                tokens.push(tokenizer.end_of_document());
                scorer.add(&tokens, document.len())?;
                document.clear();
            }
        }
        pieces.notes().iter().for_each(|note| output::notice(&format!("note: {note}")));
        let count = texts.sources.len() as u64;
        progress.update("scoring", done as u64 + 1, count, || source.display().to_string());
    }
    let score = scorer.finish()?;
    if score.tokens == 0 {
        return Err(Failure::input(
            format!("{} has no text to score", texts.corpus.path),
            "name a file with text",
        ));
    }
    Ok(TextScores {
        source: texts.corpus.path.clone(),
        loss: score.loss(),
        perplexity: score.perplexity(),
        bits_per_byte: Some(score.bits_per_byte()),
        tokens: score.tokens,
    })
}

fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let hint = "a line is {\"question\": \"...\", \"choices\": [\"...\", \"...\"], \"answer\": 0}";
    let mut questions = Vec::new();
    for Record { place, json, lone_surrogates: count } in records::read(path)? {
        if count > 0 {
            output::notice(&format!("note: {place}: {count} halves of surrogate pairs are read as U+FFFD"));
        }
        let wrong = |why: String| Failure::input(format!("{place} is not a question: {why}"), hint);
        let record = serde_json::from_str(&json).map_err(|error| wrong(error.to_string()))?;
        let question = question(&record).map_err(wrong)?;
        questions.push(question);
    }
    if questions.is_empty() {
        return Err(Failure::input(format!("{} holds no questions", path.display()), hint));
    }
    Ok(questions)
}

fn score_choices(
    model: &Model,
    tokenizer: &Tokenizer,
    path: &Path,
    questions: &[Question],
    progress: &Progress,
) -> Result<ChoiceScores> {
    let encode = |text: &str| tokenizer.encode(text);
    let mut scorer = ChoiceScorer::new(model, &encode);
    for (done, question) in questions.iter().enumerate() {
        scorer.add(question)?;
        progress.update("questions", done as u64 + 1, questions.len() as u64, String::new);
    }
    let score = scorer.finish()?;
    let (accuracy, accuracy_error) = share(score.right, score.questions);
    let (accuracy_normalised, accuracy_normalised_error) = share(score.right_normalised, score.questions);
    Ok(ChoiceScores {
        source: path.display().to_string(),
        questions: score.questions,
        accuracy,
        accuracy_error,
        accuracy_normalised,
        accuracy_normalised_error,
    })
}
