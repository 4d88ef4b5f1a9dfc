//! The cases of the training benchmark: models, tokens made by a formula, and forced routing.

use lingot_model::Rows;
use lingot_model::random::Stream;
use lingot_spec::ModelSpec;
use lingot_spec::presets::preset;
use lingot_spec::run::Recompute;
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
    /// One of [`Case::NAMES`], a preset, or the name of a run.
    pub name: String,
    /// The model.
    pub model: ModelSpec,
    /// Sequences of a micro-batch.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Micro-batches of a step.
    pub micros: usize,
    /// What the backward pass computes again.
    pub recompute: Recompute,
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
    /// The names that [`Case::named`] knows.
    pub const NAMES: [&str; 6] = ["T", "S", "M", "L", "G", "Q"];

    /// Returns the case of that name, in either case, with one micro-batch a step.
    ///
    /// `T` is a Ling v2 that tests train in moments. `S` and `M` are the presets `small` and `medium`; `L` is
    /// one layer shaped like Ling-mini-2.0's, with a smaller vocabulary, so that weights, gradients and
    /// moments fit in 24 GiB. `G` and `Q` are for accelerators: a Ling v2 of 907 M parameters, and four
    /// layers of Qwen3-30B-A3B's shape with a shared expert, 2.6 B parameters.
    pub fn named(name: &str) -> Option<Case> {
        let name = name.to_ascii_uppercase();
        let (model, sequences, sequence) = match name.as_str() {
            "T" => (ModelSpec { layers: 2, dense_layers: 0, dense_width: 0, ..preset("toy")? }, 4, 64),
            "S" => (preset("small")?, 8, 256),
            "M" => (preset("medium")?, 4, 512),
            "L" => {
                let whole = preset("ling-mini-2.0")?;
                let model =
                    ModelSpec { vocabulary: 16_384, layers: 1, dense_layers: 0, mtp_layers: 0, ..whole };
                (model, 4, 512)
            }
            "G" => (g()?, 16, 1024),
            "Q" => (q()?, 8, 2048),
            _ => return None,
        };
        Some(Case { name, model, sequences, sequence, micros: 1, recompute: Recompute::Nothing })
    }

    /// Tokens of a micro-batch.
    pub(crate) fn micro_tokens(&self) -> usize {
        self.sequences * self.sequence
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.micros * self.micro_tokens()
    }

    /// FLOPs of a token, forward and backward.
    pub fn flops_per_token(&self) -> f64 {
        self.model.flops_per_token(self.sequence as u32)
    }

    /// Makes the tokens of a step, micro-batch by micro-batch.
    pub(crate) fn micros(&self, step: u64) -> Vec<Sequences> {
        let micros = self.micros as u64;
        let drawn = |index| Sequences::drawn(self.model.vocabulary, self.sequences, self.sequence, index);
        (step * micros..(step + 1) * micros).map(drawn).collect()
    }

    /// Makes what `WarmLogits` mixes into the logits [T, E] of a micro-batch to force the choice; none for
    /// real routing.
    pub(crate) fn pull(&self, routing: Routing) -> Option<Vec<f32>> {
        let [experts, choices] = [self.model.experts, self.model.choices].map(|n| n as usize);
        let step = match routing {
            Routing::Real => return None,
            Routing::Balanced => choices,
            Routing::Skewed => 0,
        };
        let mut pull = vec![0.0; self.micro_tokens() * experts];
        for token in 0..self.micro_tokens() {
            for choice in 0..choices {
                pull[token * experts + (token * step + choice) % experts] = PULL;
            }
        }
        Some(pull)
    }
}

/// `G`: a Ling v2 whose layers are large enough to fill an accelerator.
fn g() -> Option<ModelSpec> {
    Some(ModelSpec {
        vocabulary: 32_768,
        width: 1024,
        layers: 8,
        heads: 16,
        kv_heads: 4,
        head_width: 64,
        dense_layers: 0,
        dense_width: 0,
        experts: 64,
        choices: 6,
        expert_width: 512,
        shared_experts: 1,
        rotary_width: 64,
        ..preset("toy")?
    })
}

/// `Q`: layers of Qwen3-30B-A3B's shape, with one shared expert and Ling v2's router.
fn q() -> Option<ModelSpec> {
    Some(ModelSpec {
        width: 2048,
        layers: 4,
        head_width: 128,
        experts: 128,
        choices: 8,
        expert_width: 768,
        rotary_width: 128,
        ..g()?
    })
}

/// The batch of one micro-batch: one document per sequence.
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
        for name in Case::NAMES {
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
    fn models_for_accelerators_have_the_sizes_that_tables_of_them_state() {
        for (name, parameters, flops) in [("G", 907e6, 909e6), ("Q", 2.6e9, 1.78e9)] {
            let case = Case::named(name).unwrap();
            case.model.check().unwrap();
            let near = |found: f64, stated: f64| (found / stated - 1.0).abs() < 5e-3;
            assert!(near(case.model.parameters() as f64, parameters), "{name} {}", case.model.parameters());
            assert!(near(case.flops_per_token(), flops), "{name} {}", case.flops_per_token());
            assert_eq!(case.tokens(), 16_384);
        }
    }

    #[test]
    fn tokens_are_in_the_vocabulary_and_targets_follow_them() {
        let case = Case::named("s").unwrap();
        let batch = case.micros(7).remove(0);
        assert!(batch.tokens.iter().all(|&token| (0..8192).contains(&token)));
        assert_eq!(batch.tokens[1..256], batch.targets[..255]);
        assert_eq!(batch.rows().targets(), 2048);
        let two = Case { micros: 2, ..case };
        assert_eq!(two.micros(3)[1].tokens, batch.tokens, "step 3 has micro-batches 6 and 7");
    }
}
