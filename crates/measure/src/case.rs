//! The cases of the training benchmark: models, tokens made by a formula, and forced routing.

use lingot_model::Rows;
use lingot_model::random::Stream;
use lingot_spec::ModelSpec;
use lingot_spec::presets::preset;
use serde::{Deserialize, Serialize};

/// Seeds the initial weights and the tokens.
pub(crate) const SEED: u64 = 1;

/// Separates the stream of tokens from others with the same seed.
const PURPOSE_TOKENS: u64 = 3;

/// The share of the true logits that forced routing keeps.
pub(crate) const KEEP: f64 = 0.5;

/// The logit that forced routing pulls chosen experts to.
const PULL: f32 = 40.0;

/// A model and the batch it is trained with.
#[derive(Clone, Debug)]
pub struct Case {
    /// `S`, `M` or `L`.
    pub name: &'static str,
    /// The model.
    pub model: ModelSpec,
    /// Sequences of a step.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
}

/// Who decides which experts a token visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// The router decides.
    Real,
    /// Token t visits the experts `t*K .. t*K + K`, counted around: all loads are equal.
    Balanced,
    /// All tokens visit the first K experts.
    Skewed,
}

impl Routing {
    pub(crate) fn all(skewed: bool) -> impl Iterator<Item = Routing> {
        let count = if skewed { 3 } else { 2 };
        [Routing::Real, Routing::Balanced, Routing::Skewed].into_iter().take(count)
    }
}

impl Case {
    /// Returns the case of that name. `S` and `M` are the presets `small` and `medium`; `L` is one layer
    /// shaped like Ling-mini-2.0's, with a smaller vocabulary, so that weights, gradients and moments fit in
    /// 24 GiB.
    pub fn named(name: &str) -> Option<Case> {
        let (name, model, sequences, sequence) = match name.to_ascii_uppercase().as_str() {
            "S" => ("S", preset("small")?, 8, 256),
            "M" => ("M", preset("medium")?, 4, 512),
            "L" => {
                let whole = preset("ling-mini-2.0")?;
                let model =
                    ModelSpec { vocabulary: 16_384, layers: 1, dense_layers: 0, mtp_layers: 0, ..whole };
                ("L", model, 4, 512)
            }
            _ => return None,
        };
        Some(Case { name, model, sequences, sequence })
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.sequences * self.sequence
    }

    /// FLOPs of a token, forward and backward.
    pub fn flops_per_token(&self) -> f64 {
        self.model.flops_per_token(self.sequence as u32)
    }

    /// Makes the tokens of a step.
    pub(crate) fn sequences(&self, step: u64) -> Sequences {
        Sequences::drawn(self.model.vocabulary, self.sequences, self.sequence, step)
    }

    /// Makes what `WarmLogits` mixes into the logits [T, E] to force the choice; none for real routing.
    pub(crate) fn pull(&self, routing: Routing) -> Option<Vec<f32>> {
        let [experts, choices] = [self.model.experts, self.model.choices].map(|n| n as usize);
        let step = match routing {
            Routing::Real => return None,
            Routing::Balanced => choices,
            Routing::Skewed => 0,
        };
        let mut pull = vec![0.0; self.tokens() * experts];
        for token in 0..self.tokens() {
            for choice in 0..choices {
                pull[token * experts + (token * step + choice) % experts] = PULL;
            }
        }
        Some(pull)
    }
}

/// The batch of one step: one document per sequence.
pub(crate) struct Sequences {
    tokens: Vec<i32>,
    targets: Vec<i32>,
    starts: Vec<i32>,
    positions: Vec<i32>,
    sequence: usize,
}

impl Sequences {
    /// Draws token ids `floor(V u^3)` with u uniform, so that some are far more frequent than others, as in
    /// text.
    pub(crate) fn drawn(vocabulary: u32, sequences: usize, length: usize, step: u64) -> Sequences {
        let mut stream = Stream::new(&[SEED, PURPOSE_TOKENS, step]);
        let mut token = || {
            let uniform = stream.uniform();
            ((f64::from(vocabulary) * (uniform * uniform * uniform)) as u32).min(vocabulary - 1) as i32
        };
        let mut batch = Sequences {
            tokens: vec![],
            targets: vec![],
            starts: vec![],
            positions: vec![],
            sequence: length,
        };
        for sequence in 0..sequences {
            let ids: Vec<i32> = (0..=length).map(|_| token()).collect();
            batch.tokens.extend(&ids[..length]);
            batch.targets.extend(&ids[1..]);
            batch.starts.extend(std::iter::repeat_n((sequence * length) as i32, length));
            batch.positions.extend(0..length as i32);
        }
        batch
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows {
            tokens_t: &self.tokens,
            targets_t: &self.targets,
            starts_t: &self.starts,
            positions_t: &self.positions,
            sequence: self.sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_pulls_visit_every_expert_equally_often() {
        for name in ["S", "M", "L"] {
            let case = Case::named(name).unwrap();
            let experts = case.model.experts as usize;
            let mut loads = vec![0; experts];
            for (at, value) in case.pull(Routing::Balanced).unwrap().iter().enumerate() {
                loads[at % experts] += usize::from(*value > 0.0);
            }
            let mean = case.tokens() * case.model.choices as usize / experts;
            assert_eq!(loads, vec![mean; experts], "{name}");
        }
    }

    #[test]
    fn tokens_are_in_the_vocabulary_and_targets_follow_them() {
        let case = Case::named("S").unwrap();
        let batch = case.sequences(7);
        assert!(batch.tokens.iter().all(|&token| (0..8192).contains(&token)));
        assert_eq!(batch.tokens[1..256], batch.targets[..255]);
        assert_eq!(batch.rows().targets(), 2048);
    }
}
