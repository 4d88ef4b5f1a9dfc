//! What a model is given: a micro-batch of tokens, and the totals of the step it is part of.

use lingot_device::{Device, Result, Tensor};

/// A micro-batch on the host, sequences one after the other. T = sequences x sequence length.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The tokens.
    pub tokens_t: &'a [i32],
    /// For each token the next one of its document, -1 for none.
    pub targets_t: &'a [i32],
    /// For each token, the index in 0..T of the first token of its document.
    pub starts_t: &'a [i32],
    /// Each token's position in its document, from 0.
    pub positions_t: &'a [i32],
    /// The length of a sequence in tokens.
    pub sequence: usize,
}

/// A micro-batch on the device.
pub struct Inputs {
    pub(crate) tokens_t: Tensor,
    pub(crate) targets_t: Tensor,
    pub(crate) starts_t: Tensor,
    pub(crate) positions_t: Tensor,
    /// The tokens that multi-token prediction reads, and its targets.
    pub(crate) next: Option<[Tensor; 2]>,
    pub(crate) sequence: usize,
}

impl Inputs {
    /// Copies the rows to the device, by one copy; with `mtp` also what multi-token prediction needs.
    pub fn new(device: &Device, rows: Rows<'_>, mtp: bool) -> Result<Inputs> {
        let Rows { tokens_t, targets_t, starts_t, positions_t, sequence } = rows;
        let next = if mtp { rows.after_next().concat() } else { vec![] };
        let all = [tokens_t, targets_t, starts_t, positions_t, &next].concat();
        let t = tokens_t.len();
        let all = device.integers(&all, &[all.len()])?;
        let row = |number: usize| all.rows(number * t, t);
        Ok(Inputs {
            tokens_t: row(0),
            targets_t: row(1),
            starts_t: row(2),
            positions_t: row(3),
            next: mtp.then(|| [row(4), row(5)]),
            sequence,
        })
    }
}

impl Rows<'_> {
    /// Returns the number of tokens that have a target.
    pub fn targets(&self) -> u64 {
        self.targets_t.iter().filter(|&&target| target >= 0).count() as u64
    }

    /// Returns the number of tokens that have a target of multi-token prediction.
    pub fn mtp_targets(&self) -> u64 {
        self.after_next()[1].iter().filter(|&&target| target >= 0).count() as u64
    }

    /// Returns the token after each token (0 where there is none), and the one after that (-1 where there is
    /// none).
    fn after_next(&self) -> [Vec<i32>; 2] {
        let tokens = self.targets_t.iter().map(|&target| target.max(0)).collect();
        let count = self.targets_t.len();
        let targets = (0..count)
            .map(|t| {
                let inside = (t + 1) % self.sequence != 0;
                if inside && self.targets_t[t] >= 0 { self.targets_t[t + 1] } else { -1 }
            })
            .collect();
        [tokens, targets]
    }
}

/// The counts that the means of a step are taken over, the same for all its micro-batches and devices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// All tokens.
    pub tokens: u64,
    /// Tokens with a target.
    pub targets: u64,
    /// Tokens with a target for multi-token prediction.
    pub mtp_targets: u64,
}

impl Totals {
    /// Adds the counts of `rows`; with `mtp` also those of multi-token prediction.
    pub fn add(&mut self, rows: &Rows<'_>, mtp: bool) {
        self.tokens += rows.tokens_t.len() as u64;
        self.targets += rows.targets();
        if mtp {
            self.mtp_targets += rows.mtp_targets();
        }
    }
}

/// Stochastic routing warmup at one step (Ling report, arXiv 2503.05139, equation 3): the share of the logits
/// that is kept, and the noise that replaces the rest.
#[derive(Clone, Copy)]
pub struct Warmth<'a> {
    /// `min(step / warmup steps, 1)`.
    pub keep: f64,
    /// What replaces the rest.
    pub noise: Noise<'a>,
}

/// Where the noise of routing warmup comes from.
#[derive(Clone, Copy)]
pub enum Noise<'a> {
    /// Returns standard normal noise, `[T, E]`, for a layer by its number among those with a router. A pure
    /// function: the same call gives the same numbers.
    Drawn(&'a dyn Fn(usize) -> Vec<f32>),
    /// The same numbers, `[T, E]`, for every layer, on the device already: nothing is copied within a step.
    Given(&'a Tensor),
}
