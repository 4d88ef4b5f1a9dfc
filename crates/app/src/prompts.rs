//! Many texts at once: the prompts of a file, continued together.

use crate::checkpoint::Found;
use crate::failure::{Failure, Result};
use crate::generate::ends_of;
use crate::output;
use crate::records::{self, Record};
use lingot_data::{Decoding, Tokenizer};
use lingot_model::Model;
use lingot_train::sample::{Bounds, Sampling};
use lingot_train::sample_many::{Finished, Request, sample_many};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// A line of the file.
#[derive(Clone, Debug, Deserialize)]
pub struct Prompt {
    /// The text to continue.
    #[serde(alias = "text")]
    prompt: String,
    /// In place of `--tokens`.
    tokens: Option<usize>,
    /// In place of `--seed`.
    seed: Option<u64>,
}

/// A line of the result.
#[derive(Serialize)]
struct Line<'a> {
    /// The line of the file, counted from 0 without empty ones.
    index: usize,
    prompt: &'a str,
    text: String,
    prompt_tokens: usize,
    tokens: usize,
    /// Whether the model ended the text; otherwise the number of tokens did.
    ended: bool,
}

/// What all texts have in common.
pub struct Making<'a> {
    pub sampling: Sampling,
    /// The largest number of new tokens of a text that does not name its own.
    pub tokens: usize,
    /// Texts that are made at a time.
    pub batch: usize,
    pub tokenizer: &'a Tokenizer,
}

/// Reads the prompts of a file, one JSON object a line.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let hint = "a line is {\"prompt\": \"Once upon a time\"}, with \"tokens\" and \"seed\" if they differ";
    let mut prompts = Vec::new();
    for Record { place, json, .. } in records::read(path)? {
        let prompt: Prompt = serde_json::from_str(&json)
            .map_err(|error| Failure::input(format!("{place} is not a prompt: {error}"), hint))?;
        if prompt.prompt.is_empty() {
            return Err(Failure::input(format!("{place}: the prompt is empty"), hint));
        }
        prompts.push(prompt);
    }
    if prompts.is_empty() {
        return Err(Failure::input(format!("{} holds no prompts", path.display()), hint));
    }
    Ok(prompts)
}

/// Continues the prompts and writes a line for each, in the order of the file, as soon as it and those before
/// it are made.
pub fn continue_all(found: &Found, model: &Model, prompts: &[Prompt], making: &Making<'_>) -> Result<()> {
    let Making { sampling, tokens, batch, tokenizer } = *making;
    let requests: Vec<Request> = prompts
        .iter()
        .map(|prompt| Request {
            prompt: tokenizer.encode(&prompt.prompt),
            sampling: Sampling { seed: prompt.seed.unwrap_or(sampling.seed), ..sampling },
            tokens: prompt.tokens.unwrap_or(tokens),
        })
        .collect();
    let ends = ends_of(found, tokenizer)?;
    let bounds = Bounds { tokens, vocabulary: tokenizer.vocabulary() as usize, ends: &ends };
    let begin = Instant::now();
    let (mut early, mut next, mut made) = (BTreeMap::new(), 0, 0);
    let mut written = Ok(());
    sample_many(model, &requests, batch, bounds, &output::has_reader, &mut |finished: Finished| {
        made += finished.tokens.len();
        early.insert(finished.index, finished);
        while let Some(finished) = early.remove(&next) {
            let request = &requests[next];
            let line = line(&prompts[next], request, finished, tokenizer);
            written = output::json_line(&line);
            next += 1;
            if written.is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    written?;
    let seconds = begin.elapsed().as_secs_f64();
    let speed = made as f64 / seconds.max(1e-9);
    output::notice(&format!("{next} texts, {made} tokens in {seconds:.1} s: {speed:.0} tokens/s"));
    output::refuse_lost_reader()
}

fn line<'a>(prompt: &'a Prompt, request: &Request, finished: Finished, tokenizer: &Tokenizer) -> Line<'a> {
    let mut decoding = Decoding::new(tokenizer);
    // The prompt is context for the text of the first new token.
    request.prompt.iter().for_each(|&token| drop(decoding.push(token)));
    let mut text: String = finished.tokens.iter().map(|&token| decoding.push(token)).collect();
    text += &decoding.finish();
    Line {
        index: finished.index,
        prompt: &prompt.prompt,
        text,
        prompt_tokens: request.prompt.len(),
        tokens: finished.tokens.len(),
        ended: finished.ended,
    }
}
