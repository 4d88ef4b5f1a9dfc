//! One training run as a value: what `RUN.toml` says, with every default filled in.

mod guard;
mod sync;

use crate::model::ModelSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use guard::GuardSpec;
pub use sync::{OuterSpec, PenaltySpec, Strategy, SyncSpec};

/// A training run. `lingot train` prints it and stores it with the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Name of the run; by default the file name of `RUN.toml` without its extension.
    pub name: String,
    /// Folder that the run writes to: checkpoints, `run.jsonl`, TensorBoard files.
    pub folder: String,
    /// Seed of everything random: initial weights, the order of samples, routing noise.
    pub seed: u64,
    /// Devices that train together, as `docs/fleet.md` spells them; without any, `device.name` trains alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Notes printed when the run starts, such as what the run leaves out of the plan it was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether the scalars of TensorBoard are also written as JSON Lines, into `metrics.jsonl`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metrics: bool,
    /// Architecture of the model.
    pub model: ModelSpec,
    /// Text to train on.
    pub data: DataSpec,
    /// Sequences of a step.
    pub batch: BatchSpec,
    /// Settings of AdamW.
    pub optimizer: OptimizerSpec,
    /// Learning rate over the run.
    pub schedule: ScheduleSpec,
    /// Limits that end the run.
    pub stop: StopSpec,
    /// When held-out text is scored.
    pub evaluation: EvaluationSpec,
    /// When checkpoints are written, and how many stay.
    pub checkpoint: CheckpointSpec,
    /// Device that trains, and how it computes.
    pub device: DeviceSpec,
    /// How several workers agree on one model.
    #[serde(default)]
    pub sync: SyncSpec,
    /// What happens when losses or gradients leap.
    #[serde(default)]
    pub guard: GuardSpec,
    /// What the devices cost; without it no money is counted.
    pub price: Option<PriceSpec>,
}

/// The text to train on, and how it is split into sequences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Corpora, mixed by their weights.
    pub corpora: Vec<CorpusSpec>,
    /// Path of a `tokenizer.json`; without one, a byte-level BPE of `model.vocabulary` tokens is trained on
    /// the corpora.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Share of the documents held out for evaluation, 0 to 1.
    #[serde(default = "default_validation")]
    pub validation: f64,
    /// Length of a sequence in tokens.
    #[serde(default = "default_sequence")]
    pub sequence: u32,
    /// Folder of the shards and the tokenizer; by default `data` inside the run's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
}

/// One corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusSpec {
    /// A file of text, JSON records or Parquet, a folder of such files, or the prefix of Megatron shards.
    pub path: String,
    /// Weight of the corpus: samples are drawn in proportion to the weights.
    #[serde(default = "one")]
    pub weight: f64,
    /// Key (JSON records) or column (Parquet) that holds the text.
    #[serde(default = "default_field")]
    pub field: String,
    /// Regular expression of the lines that begin a new document, in plain text; without one, each file is
    /// one document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Whether text that spells a special token, such as `</s>`, is read as that token. Otherwise it is text
    /// like any other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub special_tokens: bool,
}

/// How many sequences a step has, and how many are computed at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSpec {
    /// Sequences of a step, after the ramp.
    pub sequences: u32,
    /// Sequences of a micro-batch: those computed at once. A step adds up the gradients of its micro-batches.
    /// Divides `sequences` and `from`.
    pub micro: u32,
    /// Sequences of the first step; 0 for no ramp.
    pub from: u32,
    /// Steps of the ramp from `from` to `sequences`, which is linear and moves in multiples of `micro`.
    pub ramp_steps: u64,
}

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101). Decay is decoupled and leaves out the scales of norms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// Peak learning rate.
    pub rate: f64,
    /// Decay of the first moment, the mean of the gradient.
    pub beta1: f64,
    /// Decay of the second moment, the mean of the squared gradient.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay: matrices are multiplied by `1 - rate * decay` in every step.
    pub decay: f64,
    /// Global gradient norm above which gradients are scaled down; 0 for no clipping.
    pub clip: f64,
}

/// The learning rate over the run, as a factor of the peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// Steps over which the rate rises linearly from 0 to its peak.
    pub warmup_steps: u64,
    /// Course of the rate after the warmup.
    pub shape: Shape,
    /// Share of the run, 0 to 1, after which the shape begins: `halving` halves the rate there, `cosine` and
    /// `inverse_sqrt` start to decay. A turn within the warmup means its end.
    pub turn: f64,
    /// `cosine`, `inverse_sqrt`: the factor in the last step.
    pub floor: f64,
}

/// The course of the learning rate after the warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// The peak to the end (Ling 2.0; anneal by `lingot merge`).
    Constant,
    /// The peak, halved once at `turn` (Ling 1.0).
    Halving,
    /// The peak until `turn`, then half a cosine down to `floor`.
    Cosine,
    /// The peak until `turn`, then the inverse square root down to `floor` (Ling 1.0's annealing).
    InverseSqrt,
}

/// Limits: the run ends after the step that meets one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopSpec {
    /// Optimizer steps to take; also the length of the run for `schedule`.
    pub steps: u64,
    /// Tokens to train on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Hours of training, all resumptions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<f64>,
    /// Money to spend, in the currency of `price`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Held-out loss, in nats per token, to reach or fall below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// When held-out text is scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// Steps from one evaluation to the next; the end is always evaluated. 0 evaluates only the end.
    pub every: u64,
    /// Largest number of held-out sequences to score.
    pub sequences: u32,
}

/// When checkpoints are written, and how many stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Steps from one checkpoint to the next; the end is always saved. 0 saves only the end.
    pub every: u64,
    /// Number of the newest checkpoints that stay on disk; 0 keeps all. The newest that is known to be sound
    /// stays in any case.
    pub keep: u32,
    /// Seconds that a run waits for a disk that is full or fails before it stops.
    pub wait_s: f64,
}

/// The device that trains, and how it computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSpec {
    /// The device, as `lingot devices` names it.
    pub name: String,
    /// CPU threads; 0 uses all cores. The result does not depend on it.
    pub threads: u32,
    /// Type that activations and working weights are held in. Master weights, sums and the optimizer's state
    /// are f32.
    pub precision: Precision,
    /// What layers compute again in the backward pass to save memory: one policy for all layers, or a list
    /// with one per layer.
    pub recompute: RecomputeSpec,
}

impl DeviceSpec {
    /// The most threads of the processor that are started.
    pub const MOST_THREADS: u32 = 1024;
}

/// The type that activations and working weights are held in, and that matrix products take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// bf16, rounded to the nearest, ties to even; products are summed in f32.
    Bf16,
}

impl Precision {
    /// The word for it in `RUN.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// The recompute policies of the layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecomputeSpec {
    /// One policy for all layers.
    All(Recompute),
    /// One policy per layer.
    Each(Vec<Recompute>),
}

impl RecomputeSpec {
    /// One policy per layer, the last one serving all layers that follow.
    pub fn policies(&self) -> Vec<Recompute> {
        match self {
            RecomputeSpec::All(policy) => vec![*policy],
            RecomputeSpec::Each(policies) => policies.clone(),
        }
    }
}

/// What a layer computes again in the backward pass instead of keeping it in memory. The routing is always
/// kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Keep what attention read and the pre-activations; norms, activations and sorted rows are computed
    /// again.
    Nothing,
    /// Also compute the routed experts' pre-activations again.
    Experts,
    /// Compute the whole layer again: keep its input and its routing.
    Block,
}

impl Recompute {
    /// The word for it in `RUN.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::Nothing => "nothing",
            Recompute::Experts => "experts",
            Recompute::Block => "block",
        }
    }
}

/// What the devices cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSpec {
    /// Price of an hour of each device that `devices` does not list.
    pub per_hour: f64,
    /// Currency of all prices, such as `EUR`.
    pub currency: String,
    /// Price of an hour by entry of the run's `devices`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, f64>,
}

fn default_validation() -> f64 {
    0.05
}
fn default_sequence() -> u32 {
    256
}
fn default_field() -> String {
    "text".into()
}
fn one() -> f64 {
    1.0
}

impl Default for BatchSpec {
    fn default() -> BatchSpec {
        BatchSpec { sequences: 16, micro: 8, from: 0, ramp_steps: 0 }
    }
}

/// Ling's values (arXiv 2503.05139, section 3.4), except for the rate, which fits small models.
impl Default for OptimizerSpec {
    fn default() -> OptimizerSpec {
        OptimizerSpec { rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, clip: 1.0 }
    }
}

impl Default for ScheduleSpec {
    fn default() -> ScheduleSpec {
        ScheduleSpec { warmup_steps: 50, shape: Shape::Cosine, turn: 0.0, floor: 0.1 }
    }
}

impl Default for StopSpec {
    fn default() -> StopSpec {
        StopSpec { steps: 1000, tokens: None, hours: None, money: None, loss: None }
    }
}

impl Default for EvaluationSpec {
    fn default() -> EvaluationSpec {
        EvaluationSpec { every: 100, sequences: 64 }
    }
}

impl Default for CheckpointSpec {
    fn default() -> CheckpointSpec {
        CheckpointSpec { every: 100, keep: 2, wait_s: 600.0 }
    }
}

impl Default for DeviceSpec {
    fn default() -> DeviceSpec {
        DeviceSpec {
            name: "cpu".into(),
            threads: 0,
            precision: Precision::F32,
            recompute: RecomputeSpec::All(Recompute::Nothing),
        }
    }
}
