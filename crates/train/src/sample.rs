//! Text from a model, token by token: which token comes next, and when it ends.

use lingot_model::random::Stream;
use lingot_model::{Cache, Model};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::ops::ControlFlow;

/// Sets the stream of sampling apart from others with the same seed.
pub(crate) const PURPOSE_SAMPLE: u64 = 3;

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability are drawn from.
    pub top_p: f64,
    /// Where the random numbers come from.
    pub seed: u64,
}

/// What bounds a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds<'a> {
    /// The largest number of new tokens. It costs nothing until they are made.
    pub tokens: usize,
    /// Tokens of the tokenizer; the model's vocabulary may have more rows, which mean nothing.
    pub vocabulary: usize,
    /// Tokens that end the text, and are not part of it.
    pub ends: &'a [u32],
}

/// Tokens that a cache has room for at first; it grows with the text.
const FIRST_ROOM: usize = 256;

/// Continues `prompt`. Every new token is passed to `each` as it comes, which may end the text. Returns all
/// of them.
pub fn sample(
    model: &Model,
    prompt: &[u32],
    sampling: &Sampling,
    bounds: Bounds<'_>,
    each: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    check(model, prompt, sampling)?;
    let mut stream = Stream::new(&[sampling.seed, PURPOSE_SAMPLE]);
    let mut cache = Cache::new(model, prompt.len() + bounds.tokens.min(FIRST_ROOM))?;
    let mut read: Vec<i32> = prompt.iter().map(|&token| token as i32).collect();
    let mut all = Vec::new();
    while all.len() < bounds.tokens {
        let needed = cache.len() + read.len();
        if needed > cache.capacity() {
            cache.reserve(model, 2 * needed).map_err(|error| Problem {
                hint: format!("give a --tokens below {}, or a device with more memory", 2 * all.len()),
                ..error.into()
            })?;
        }
        let logits = model.read(&mut cache, &read)?;
        let known = bounds.vocabulary.min(logits.len());
        let token = next_token(&logits[..known], sampling, &mut stream);
        if bounds.ends.contains(&token) {
            break;
        }
        all.push(token);
        if each(token).is_break() {
            break;
        }
        read = vec![token as i32];
    }
    Ok(all)
}

/// Draws one token. Equal logits are ordered by token, so that the draw is the same everywhere.
pub fn next_token(logits: &[f32], sampling: &Sampling, stream: &mut Stream) -> u32 {
    let likelier = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let Some(&likeliest) = tokens.iter().min_by(|a, b| likelier(a, b)) else { return 0 };
    if sampling.temperature == 0.0 {
        return likeliest;
    }
    let largest = f64::from(logits[likeliest as usize]);
    let weigh = |token: u32| ((f64::from(logits[token as usize]) - largest) / sampling.temperature).exp();
    let wanted = sampling.top_p * tokens.iter().map(|&token| weigh(token)).sum::<f64>();
    // Few tokens are likely: only these are put in order.
    let mut count = FEW_TOKENS.min(tokens.len());
    let weights = loop {
        if count < tokens.len() {
            tokens.select_nth_unstable_by(count - 1, likelier);
        }
        tokens[..count].sort_by(likelier);
        let mut weights: Vec<f64> = tokens[..count].iter().map(|&token| weigh(token)).collect();
        let needed = nucleus(&weights, wanted);
        if needed < count || count == tokens.len() {
            weights.truncate(needed);
            break weights;
        }
        count = (4 * count).min(tokens.len());
    };
    let mut left = stream.uniform() * weights.iter().sum::<f64>();
    for (&token, weight) in tokens.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return token;
        }
    }
    // Rounding may leave a little over.
    tokens[weights.len() - 1]
}

/// Tokens that are put in order at first.
const FEW_TOKENS: usize = 64;

/// Returns how many of the weights, largest first, are needed for a sum of `wanted`; at least one.
fn nucleus(weights: &[f64], wanted: f64) -> usize {
    let mut sum = 0.0;
    let before = weights.iter().take_while(|&&weight| {
        let is_needed = sum < wanted;
        sum += weight;
        is_needed
    });
    before.count().max(1)
}

/// Errors if the model cannot continue the prompt in this way.
pub fn check(model: &Model, prompt: &[u32], sampling: &Sampling) -> Result<()> {
    sampling.check()?;
    let rows = model.spec.vocabulary;
    if prompt.is_empty() {
        return Err(Problem::new("the prompt has no tokens", "give at least one character to continue")
            .of(ProblemKind::Input));
    }
    match prompt.iter().find(|&&token| token >= rows) {
        None => Ok(()),
        Some(token) => Err(Problem::new(
            format!("the prompt has token {token}, but the model's vocabulary is {rows}"),
            "give the tokenizer that the model was trained with",
        )
        .of(ProblemKind::Input)),
    }
}

impl Sampling {
    /// Errors if a number is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Problem::new(
                format!("temperature is {}", self.temperature),
                "give 0 for the likeliest token each time, 0.8 for lively text",
            )
            .of(ProblemKind::Input));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Problem::new(
                format!("top-p is {}", self.top_p),
                "give a share above 0 and at most 1; 1 draws from all tokens",
            )
            .of(ProblemKind::Input));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the draw is defined: all tokens in order.
    fn by_definition(logits: &[f32], sampling: &Sampling, stream: &mut Stream) -> u32 {
        let mut tokens: Vec<usize> = (0..logits.len()).collect();
        tokens.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let largest = f64::from(logits[tokens[0]]);
        let weigh = |&token: &usize| ((f64::from(logits[token]) - largest) / sampling.temperature).exp();
        let weights: Vec<f64> = tokens.iter().map(weigh).collect();
        let needed = nucleus(&weights, sampling.top_p * weights.iter().sum::<f64>());
        let mut left = stream.uniform() * weights[..needed].iter().sum::<f64>();
        let mut drawn = weights[..needed].iter().position(|weight| {
            left -= weight;
            left <= 0.0
        });
        tokens[drawn.get_or_insert(needed - 1).to_owned()] as u32
    }

    #[test]
    fn only_the_likely_tokens_are_put_in_order_and_the_draw_is_the_same() {
        for count in [1, 5, 63, 64, 65, 300, 3000] {
            for (temperature, top_p) in [(0.3, 0.9), (0.8, 0.95), (3.0, 0.99), (1.0, 1.0)] {
                let logit = |n: usize| ((n * 7919) % 1013) as f32 / 100.0;
                let logits: Vec<f32> = (0..count).map(logit).collect();
                for seed in 0..30 {
                    let sampling = Sampling { temperature, top_p, seed };
                    let [mut one, mut other] = [Stream::new(&[seed]), Stream::new(&[seed])];
                    let found = next_token(&logits, &sampling, &mut one);
                    assert_eq!(found, by_definition(&logits, &sampling, &mut other), "{count} {sampling:?}");
                }
            }
        }
    }
}
