//! `lingot generate`: text from a trained model.

use crate::checkpoint::{self, DeviceArgs};
use crate::failure::{Failure, Result};
use crate::output;
use lingot_data::Decoding;
use lingot_train::evaluate;
use lingot_train::sample::{Bounds, Sampling, sample};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Continue a text with a trained or imported model.
///
/// The text appears as it is made, and ends where the model ends the document.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lingot generate out/quickstart --prompt \"The model\"
  lingot generate out/quickstart/checkpoints/step-00000400 --prompt \"fn main\" --greedy
  lingot generate out/quickstart --prompt \"Once\" --tokens 50 --seed 1 --json")]
pub struct Args {
    /// A run's folder, a checkpoint in it, or an imported model
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// At most so many new tokens
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// Below 1 prefers likely tokens; 0 is --greedy
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 0.95)]
    top_p: f64,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Take the likeliest token each time
    #[arg(long)]
    greedy: bool,
    /// The tokenizer.json, where it is not beside the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
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
    /// The model ended the document; otherwise `--tokens` ended the text.
    ended: bool,
    seconds: f64,
}

pub fn run(args: &Args) -> Result<()> {
    if args.prompt.is_empty() {
        return Err(Failure::input("the prompt is empty", "give a few words to continue: --prompt \"Once\""));
    }
    let found = checkpoint::find(&args.checkpoint)?;
    let tokenizer = found.tokenizer(args.tokenizer.as_deref())?;
    let (model, _) = evaluate::load_model(&found.path, &args.device.open()?)?;
    let prompt = tokenizer.encode(&args.prompt);
    let temperature = if args.greedy { 0.0 } else { args.temperature };
    let sampling = Sampling { temperature, top_p: args.top_p, seed: args.seed };
    let end = tokenizer.end_of_document();
    let bounds = Bounds { tokens: args.tokens, vocabulary: tokenizer.vocabulary() as usize, end };

    let begin = Instant::now();
    let mut decoding = Decoding::new(&tokenizer);
    // The prompt is context for the first new token's text; what it shows of itself is already known.
    let shown: String = prompt.iter().map(|&token| decoding.push(token)).collect();
    let mut text = String::new();
    let mut written = if args.json { Ok(()) } else { output::result(&shown) };
    let mut show = |new: &str| {
        text += new;
        if !args.json && written.is_ok() {
            written = output::result(new);
        }
    };
    let tokens = sample(&model, &prompt, &sampling, bounds, &mut |token| show(&decoding.push(token)))?;
    show(&decoding.finish());
    written?;
    if !args.json {
        return output::result("\n");
    }
    output::json(&Generated {
        checkpoint: found.path.display().to_string(),
        prompt: args.prompt.clone(),
        text,
        prompt_tokens: prompt.len(),
        tokens: tokens.len(),
        ended: tokens.len() < args.tokens,
        seconds: begin.elapsed().as_secs_f64(),
    })
}
