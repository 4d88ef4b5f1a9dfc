//! `lingot eval`: scores a trained model on text and on multiple-choice questions.

use crate::checkpoint::{self, DeviceArgs, Found};
use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::terminal::{Progress, Terminal, count};
use lingot_data::{Dataset, Tokenizer};
use lingot_model::Model;
use lingot_spec::run::{CorpusSpec, EvaluationSpec};
use lingot_train::score::{ChoiceScore, Question, TextScore, share};
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

A line of --choices: {\"question\": \"Two and two are\", \"choices\": [\"four\", \"five\"], \"answer\": 0}"
)]
pub struct Args {
    /// A run's folder, a checkpoint in it, or an imported model
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Text to score: a text, JSONL or Parquet file, or a folder of those
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The key or column that holds the text, in JSONL and Parquet
    #[arg(long, default_value = "text")]
    field: String,
    /// Multiple-choice questions, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    choices: Option<PathBuf>,
    /// Tokens that the model sees at once [default: as in training]
    #[arg(long)]
    sequence: Option<u32>,
    /// At most so many held-out sequences [default: as in training]
    #[arg(long)]
    sequences: Option<u32>,
    /// The tokenizer.json, where it is not beside the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where neither run nor user says how much the model sees at once.
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
    let found = checkpoint::find(&args.checkpoint)?;
    let questions = args.choices.as_ref().map(|path| read_questions(path)).transpose()?;
    let (model, _) = evaluate::load_model(&found.path, &args.device.open()?)?;
    let progress = Progress::new(terminal);
    let text = match (&args.data, &args.choices) {
        (Some(path), _) => Some(score_text(args, &found, &model, path, &progress)?),
        (None, None) => Some(score_held_out(args, &found, &model)?),
        (None, Some(_)) => None,
    };
    let choices = match (&args.choices, questions) {
        (Some(path), Some(questions)) => {
            let tokenizer = found.tokenizer(args.tokenizer.as_deref())?;
            Some(score_choices(&model, &tokenizer, path, &questions, &progress)?)
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
    let own = found.tokenizer_folder().filter(|folder| folder.join("data.json").is_file());
    let folder = own.unwrap_or_else(|| data::data_folder(run));
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

fn score_text(
    args: &Args,
    found: &Found,
    model: &Model,
    path: &Path,
    progress: &Progress,
) -> Result<TextScores> {
    let tokenizer = found.tokenizer(args.tokenizer.as_deref())?;
    let trained = found.run.as_ref().map(|run| run.data.sequence);
    let sequence = args.sequence.or(trained).unwrap_or(USUAL_SEQUENCE).max(1) as usize;
    let corpus =
        CorpusSpec { path: path.display().to_string(), weight: 1.0, field: args.field.clone(), split: None };
    let wrong = |error: lingot_spec::Problem| Failure::from(error).with(Code::Input);
    let sources = lingot_data::sources(&corpus, Path::new("")).map_err(wrong)?;
    let mut score = TextScore::default();
    for (done, source) in sources.iter().enumerate() {
        let mut document = String::new();
        for piece in lingot_data::pieces(&corpus, source).map_err(wrong)? {
            let piece = piece.map_err(wrong)?;
            document += &piece.text;
            if piece.ends {
                let mut tokens = tokenizer.encode(&document);
                tokens.push(tokenizer.end_of_document());
                score.add(model, &tokens, document.len(), sequence)?;
                document.clear();
            }
        }
        progress.update("scoring", done as u64 + 1, sources.len() as u64, || source.display().to_string());
    }
    if score.tokens == 0 {
        return Err(Failure::input(
            format!("{} has no text to score", path.display()),
            "name a file with text",
        ));
    }
    Ok(TextScores {
        source: corpus.path,
        loss: score.loss(),
        perplexity: score.perplexity(),
        bits_per_byte: Some(score.bits_per_byte()),
        tokens: score.tokens,
    })
}

fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error).with(Code::Input))?;
    let hint = "a line is {\"question\": \"...\", \"choices\": [\"...\", \"...\"], \"answer\": 0}";
    let mut questions = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}:{}", path.display(), number + 1);
        let question: Question = serde_json::from_str(line)
            .map_err(|error| Failure::input(format!("{place} is not a question: {error}"), hint))?;
        let count = question.choices.len();
        if question.answer >= count {
            let problem = format!("{place}: answer is {}, there are {count} choices", question.answer);
            return Err(Failure::input(problem, "answers count from 0"));
        }
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
    let mut score = ChoiceScore::default();
    for (done, question) in questions.iter().enumerate() {
        score.add(model, question, &|text| tokenizer.encode(text))?;
        progress.update("questions", done as u64 + 1, questions.len() as u64, String::new);
    }
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
