//! `lingot generate`: text from a trained model.

use crate::checkpoint::{self, DeviceArgs, Found};
use crate::failure::{Failure, Result};
use crate::import::origin_of;
use crate::output;
use crate::prompts::{self, Making};
use lingot_data::{Decoding, Tokenizer};
use lingot_model::Model;
use lingot_train::evaluate;
use lingot_train::sample::{Bounds, Sampling, sample};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// Continue a text, or those of a file, with a trained or imported model
///
/// The text appears while it is made, and ends where the model ends it. With --prompts many
/// are made at once, and one JSON object a line is printed for each, in the order of the file.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot generate out/quickstart --prompt \"The model\"
  lingot generate out/quickstart/checkpoints/step-00000400 --prompt \"fn main\" --greedy
  lingot generate out/quickstart --prompt \"Once\" --tokens 50 --seed 1 --json
  lingot generate out/quickstart --prompts prompts.jsonl --batch 64 > texts.jsonl

A line of --prompts: {\"prompt\": \"Once\"}, with \"tokens\" and \"seed\" if they differ"
)]
pub struct Args {
    /// A run's folder, a checkpoint in it, or an imported model
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// The text to continue
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    prompt: Option<String>,
    /// Continue each text of this file, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["prompt", "json"])]
    prompts: Option<PathBuf>,
    /// Continue up to N texts of --prompts at once
    #[arg(long, value_name = "N", default_value = "32", value_parser = crate::counts())]
    batch: u64,
    /// Stop after this many new tokens
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// Divide the logits by this number: below 1 prefers likely tokens, 0 is --greedy
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.95)]
    top_p: f64,
    /// Draw by this seed; the same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Take the likeliest token each time
    #[arg(long)]
    greedy: bool,
    /// Use this tokenizer.json instead of the one found with the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Read special tokens that the prompt spells, such as `</s>`, as these tokens and not as text
    #[arg(long)]
    special_tokens: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object at the end instead of the text
    #[arg(long)]
    json: bool,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Generated {
    checkpoint: String,
    prompt: String,
    text: String,
    prompt_tokens: usize,
    tokens: usize,
    /// Whether the model ended the text; otherwise `--tokens` did.
    ended: bool,
    seconds: f64,
}

pub fn run(args: &Args) -> Result<()> {
    if args.prompt.as_deref() == Some("") {
        return Err(Failure::input("the prompt is empty", "give a few words to continue: --prompt \"Once\""));
    }
    let temperature = if args.greedy { 0.0 } else { args.temperature };
    let sampling = Sampling { temperature, top_p: args.top_p, seed: args.seed };
    sampling.check()?;
    let found = checkpoint::find(&args.checkpoint)?;
    let prompts = args.prompts.as_deref().map(prompts::read).transpose()?;
    let tokenizer = found.tokenizer(args.tokenizer.as_deref())?.reading_special_tokens(args.special_tokens);
    let (model, _) = evaluate::load_model(&found.path, &args.device.open()?)?;
    match (prompts, &args.prompt) {
        (Some(prompts), _) => {
            let batch = usize::try_from(args.batch).unwrap_or(usize::MAX);
            let making = Making { sampling, tokens: args.tokens, batch, tokenizer: &tokenizer };
            prompts::continue_all(&found, &model, &prompts, &making)
        }
        (None, Some(prompt)) => continue_one(args, prompt, &sampling, &found, &model, &tokenizer),
        (None, None) => Err(Failure::input("there is no prompt", "give a few words: --prompt \"Once\"")),
    }
}

/// Continues one prompt, and shows the text while it is made.
fn continue_one(
    args: &Args,
    text: &str,
    sampling: &Sampling,
    found: &Found,
    model: &Model,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let ends = ends_of(found, tokenizer)?;
    let prompt = tokenizer.encode(text);
    lingot_train::sample::check(model, &prompt, sampling)?;
    if let Some(token) = tokenizer.special_token_in(text).filter(|_| !args.special_tokens) {
        output::notice(&format!(
            "note: `{token}` in the prompt is read as text; --special-tokens reads it as the token"
        ));
    }
    let bounds = Bounds { tokens: args.tokens, vocabulary: tokenizer.vocabulary() as usize, ends: &ends };

    let begin = Instant::now();
    let mut decoding = Decoding::new(tokenizer);
    // The prompt is context for the text of the first new token.
    let shown: String = prompt.iter().map(|&token| decoding.push(token)).collect();
    let mut made = String::new();
    let mut written = if args.json { Ok(()) } else { output::result(&shown) };
    let mut show = |new: &str| {
        if args.json {
            made += new;
        } else if written.is_ok() && !new.is_empty() {
            written = output::result(new);
        }
        // A token that shows nothing writes nothing, and the reader may be gone all the same.
        let goes_on = written.is_ok() && output::has_reader();
        if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let tokens = sample(model, &prompt, sampling, bounds, &mut |token| show(&decoding.push(token)))?;
    let _ = show(&decoding.finish());
    written?;
    output::refuse_lost_reader()?;
    if !args.json {
        return output::result("\n");
    }
    output::json(&Generated {
        checkpoint: found.path.display().to_string(),
        prompt: text.to_owned(),
        text: made,
        prompt_tokens: prompt.len(),
        tokens: tokens.len(),
        ended: tokens.len() < args.tokens,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// The tokens that end a text: those that an imported model names, or else the one that ends documents.
pub fn ends_of(found: &Found, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let named = origin_of(&found.path)?.map(|origin| origin.kept.ends()).unwrap_or_default();
    Ok(if named.is_empty() { vec![tokenizer.end_of_document()] } else { named })
}
