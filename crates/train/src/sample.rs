//! Text from a model, token by token: which token comes next, and when to stop.

use lingot_model::random::Stream;
use lingot_model::{Cache, Model};
use lingot_spec::problem::{Problem, ProblemKind, Result};

/// Sets the stream of sampling apart from others with the same seed.
const PURPOSE_SAMPLE: u64 = 3;

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability are drawn from.
    pub top_p: f64,
    pub seed: u64,
}

/// What bounds a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds<'a> {
    /// The most new tokens. A large number costs nothing until they are made.
    pub tokens: usize,
    /// Tokens of the tokenizer; the model's vocabulary may have more rows, which mean nothing.
    pub vocabulary: usize,
    /// Tokens that end the text, and are not part of it.
    pub ends: &'a [u32],
}

/// Tokens that a cache has room for at first; it grows with the text.
const FIRST_ROOM: usize = 256;

/// Continues `prompt`. Every new token is shown to `each` as it comes; returns them all.
pub fn sample(
    model: &Model,
    prompt: &[u32],
    sampling: &Sampling,
    bounds: Bounds<'_>,
    each: &mut dyn FnMut(u32),
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
        each(token);
        all.push(token);
        read = vec![token as i32];
    }
    Ok(all)
}

/// Draws one token. Equal logits are ordered by token, so that the draw is the same everywhere.
pub fn next_token(logits: &[f32], sampling: &Sampling, stream: &mut Stream) -> u32 {
    let likelier = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    if sampling.temperature == 0.0 {
        return tokens.into_iter().min_by(likelier).unwrap_or(0);
    }
    tokens.sort_by(likelier);
    let largest = f64::from(logits[tokens[0] as usize]);
    let mut weights: Vec<f64> = tokens
        .iter()
        .map(|&token| ((f64::from(logits[token as usize]) - largest) / sampling.temperature).exp())
        .collect();
    weights.truncate(nucleus(&weights, sampling.top_p));
    let mut left = stream.uniform() * weights.iter().sum::<f64>();
    for (&token, weight) in tokens.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return token;
        }
    }
    // Rounding may leave a trifle over.
    tokens[weights.len() - 1]
}

/// How many of the weights, largest first, are needed for the share `top_p` of their sum; at least one.
fn nucleus(weights: &[f64], top_p: f64) -> usize {
    let wanted = top_p * weights.iter().sum::<f64>();
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

    fn counts(logits: &[f32], temperature: f64, top_p: f64) -> Vec<usize> {
        let sampling = Sampling { temperature, top_p, seed: 7 };
        let mut stream = Stream::new(&[sampling.seed]);
        let mut counts = vec![0; logits.len()];
        for _ in 0..20_000 {
            counts[next_token(logits, &sampling, &mut stream) as usize] += 1;
        }
        counts
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 0 };
        assert_eq!(next_token(&[0.5, 2.0, 2.0, -1.0], &sampling, &mut Stream::new(&[0])), 1);
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
        let found = counts(&logits, 1.0, 1.0);
        for (found, share) in found.iter().zip([1.0, 2.0, 5.0]) {
            let expected = 20_000.0 * share / 8.0;
            assert!((*found as f64 - expected).abs() < 5.0 * expected.sqrt(), "{found} of {expected}");
        }
        // Half the temperature squares the odds.
        let cold = counts(&logits, 0.5, 1.0);
        assert!((cold[2] as f64 / cold[1] as f64 - 6.25).abs() < 0.5, "{cold:?}");
    }

    #[test]
    fn top_p_leaves_out_the_unlikely() {
        let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
        assert_eq!(counts(&logits, 1.0, 0.85)[0], 0);
        assert_eq!(counts(&logits, 1.0, 0.6)[2], 20_000);
        assert_eq!(counts(&logits, 1.0, 1e-9)[2], 20_000);
    }

    #[test]
    fn a_text_outgrows_its_first_room_without_a_change_and_a_limit_costs_nothing() {
        let spec = lingot_spec::ModelSpec {
            vocabulary: 300,
            width: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_width: 8,
            rotary_width: 4,
            dense_width: 24,
            experts: 4,
            expert_width: 8,
            initial_deviation: 0.5,
            ..lingot_spec::presets::preset("toy").unwrap()
        };
        let device = lingot_device::Device::new(lingot_device::reference::Reference::new());
        let model = Model::new(&spec, &device, lingot_device::Kind::F32, 5).unwrap();
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 3 };
        let make = |tokens: usize, ends: &[u32]| {
            let bounds = Bounds { tokens, vocabulary: 300, ends };
            sample(&model, &[1, 2, 3], &sampling, bounds, &mut |_| ()).unwrap()
        };
        let count = FIRST_ROOM + 40;
        let mut cache = Cache::new(&model, 3 + count).unwrap();
        let mut stream = Stream::new(&[sampling.seed, PURPOSE_SAMPLE]);
        let (mut read, mut expected) = (vec![1, 2, 3], Vec::new());
        while expected.len() < count {
            let logits = model.read(&mut cache, &read).unwrap();
            expected.push(next_token(&logits, &sampling, &mut stream));
            read = vec![expected[expected.len() - 1] as i32];
        }
        assert_eq!(make(count, &[]), expected);
        let all: Vec<u32> = (0..300).collect();
        assert!(make(usize::MAX, &all).is_empty());
        assert!(make(usize::MAX, &[expected[2], 299]).len() <= 2);
    }
}
