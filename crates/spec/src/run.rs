//! One training run as a value: what `RUN.toml` says once everything is resolved.

use crate::model::ModelSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A run with every default filled in. `lingot train` prints it and stores it with the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Names the run; by default the file's stem.
    pub name: String,
    /// The folder that the run writes: checkpoints, `run.jsonl`, TensorBoard files.
    pub folder: String,
    /// Everything random follows from it.
    pub seed: u64,
    /// Several devices that train together; none: `device.name` alone. `docs/fleet.md` says what an entry may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// What whoever wrote the run wants said when it begins, such as what of a plan it does not do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub model: ModelSpec,
    pub data: DataSpec,
    pub batch: BatchSpec,
    pub optimizer: OptimizerSpec,
    pub schedule: ScheduleSpec,
    pub stop: StopSpec,
    pub evaluation: EvaluationSpec,
    pub checkpoint: CheckpointSpec,
    pub device: DeviceSpec,
    #[serde(default)]
    pub sync: SyncSpec,
    pub price: Option<PriceSpec>,
}

/// Which text, in what proportion, cut how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// The corpora and their weights.
    pub corpora: Vec<CorpusSpec>,
    /// A `tokenizer.json`; without one, a byte-level BPE of `model.vocabulary` tokens is trained on the corpora.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Share of the documents that is held out for evaluation.
    #[serde(default = "default_validation")]
    pub validation: f64,
    /// Tokens of a sequence.
    #[serde(default = "default_sequence")]
    pub sequence: u32,
    /// Where shards and tokenizer are kept; by default `data` inside the run's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
}

/// One corpus: a file of text, JSON records or Parquet, a folder of those, or the prefix of Megatron shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusSpec {
    pub path: String,
    /// Samples are drawn in proportion to the weights.
    #[serde(default = "one")]
    pub weight: f64,
    /// The key or column that holds the text, in JSON records and Parquet.
    #[serde(default = "default_field")]
    pub field: String,
    /// A line that matches this regular expression begins a new document (plain text only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Text that spells a special token, such as `</s>`, is read as that token. Otherwise it is text like any other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub special_tokens: bool,
}

/// How many sequences make a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSpec {
    /// Sequences of a step, once warm.
    pub sequences: u32,
    /// Sequences that are computed at once; the rest is accumulated. Divides every batch size.
    pub micro: u32,
    /// Sequences of the first step; 0 for no ramp.
    pub from: u32,
    /// The ramp from `from` to `sequences` is linear over so many steps, in multiples of `micro`.
    pub ramp_steps: u64,
}

/// AdamW. Decay is decoupled and spares norms and one-dimensional tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// Peak learning rate.
    pub rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub decay: f64,
    /// Global gradient norm above which gradients are scaled down; 0 for no clipping.
    pub clip: f64,
}

/// The learning rate over the run, as a factor of the peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// Linear from 0 over so many steps.
    pub warmup_steps: u64,
    pub shape: Shape,
    /// `halving`: the share of the run after which the rate is halved. `cosine`, `inverse_sqrt`: where decay starts.
    pub turn: f64,
    /// `cosine`, `inverse_sqrt`: the factor at the end.
    pub floor: f64,
}

/// What follows the warmup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Constant to the end (Ling 2.0; anneal by `lingot merge`).
    Constant,
    /// Constant, halved once at `turn` (Ling 1.0).
    Halving,
    /// Half a cosine from `turn` to the end.
    Cosine,
    /// Constant until `turn`, then by the inverse square root down to `floor` (Ling 1.0's annealing).
    InverseSqrt,
}

/// The run ends as soon as one of these holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopSpec {
    /// Optimizer steps; also the length that the schedule is laid over.
    pub steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hours: Option<f64>,
    /// In the currency of `price`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Held-out loss at or below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// Held-out loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSpec {
    /// Every so many steps, and at the end; 0 for only at the end.
    pub every: u64,
    /// At most so many held-out sequences.
    pub sequences: u32,
}

/// What is kept on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Every so many steps, and at the end; 0 for only at the end.
    pub every: u64,
    /// The newest so many are kept; 0 keeps all.
    pub keep: u32,
}

/// What computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSpec {
    pub name: String,
    /// CPU threads; 0 for all. The result does not depend on it.
    pub threads: u32,
    /// What the operands of products are rounded to. Sums, weights and the optimizer stay f32.
    pub precision: Precision,
    /// What a layer recomputes in the backward pass to save memory: one policy for all, or one per layer.
    pub recompute: RecomputeSpec,
}

/// What the operands of products are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// Products of the nearest bf16 numbers, ties to even, summed in f32.
    Bf16,
}

impl Precision {
    /// As in a run.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// One policy for all layers, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecomputeSpec {
    All(Recompute),
    Each(Vec<Recompute>),
}

/// What a layer does not keep between forward and backward. Routing is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Keep all but what grows with the experts' granularity beyond the pre-activation.
    Nothing,
    /// Also give up the experts' pre-activations.
    Experts,
    /// Keep only the layer's input and its routing.
    Block,
}

impl Recompute {
    /// As in a run.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::Nothing => "nothing",
            Recompute::Experts => "experts",
            Recompute::Block => "block",
        }
    }
}

/// How several workers train one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyncSpec {
    pub strategy: Strategy,
    /// EDiT: workers meet after so many steps of their own.
    pub every: u64,
    /// A-EDiT: workers meet after so much time of their own.
    pub period_s: f64,
    /// A-EDiT: and not before they took so many steps, all together.
    pub least_steps: u64,
    /// So many first steps are trained in step with each other.
    pub warmup_steps: u64,
    /// Emulated workers, one per number, that take turns on `device` and keep virtual clocks: sequences per second.
    pub virtual_speeds: Vec<f64>,
    /// A device of `devices` that is silent for longer, and for ten times what its micro-batch should take, is dropped.
    pub deadline_s: f64,
    pub penalty: PenaltySpec,
    pub outer: OuterSpec,
}

/// When workers agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Gradients are summed in every step: the same as one device, up to rounding.
    EveryStep,
    /// Each worker trains alone for `every` steps, then all agree layer by layer.
    Edit,
    /// As EDiT, after `period_s` of time instead of steps.
    AEdit,
}

/// How much each worker's change of a layer counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PenaltySpec {
    /// Off: a plain mean, nothing is thrown away.
    pub enabled: bool,
    /// Changes count by softmax(-norm / temperature).
    pub temperature: f64,
    /// A norm so many deviations, each at least 2 % of the mean, above its moving mean is an anomaly.
    pub threshold: f64,
    /// Share of the newest norm in the moving mean and deviation.
    pub newest: f64,
    /// No norm is judged at the first so many meetings.
    pub warmup_meetings: u64,
}

/// The step that all take together after a meeting: gradient descent with Nesterov's momentum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OuterSpec {
    pub rate: f64,
    pub momentum: f64,
    /// The mean change of a layer is scaled down to this norm; 0 for never.
    pub clip: f64,
}

/// What an hour of the device costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSpec {
    /// Of each device that is not listed in `devices`.
    pub per_hour: f64,
    pub currency: String,
    /// By entry of `devices`.
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

/// Ling's values (report section 3.4), but for the rate, which fits small models.
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
        CheckpointSpec { every: 100, keep: 2 }
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

/// Period and least steps, warmup and rate of A-EDiT's released code; `every` of its example.
impl Default for SyncSpec {
    fn default() -> SyncSpec {
        SyncSpec {
            strategy: Strategy::EveryStep,
            every: 10,
            period_s: 600.0,
            least_steps: 100,
            warmup_steps: 100,
            virtual_speeds: Vec::new(),
            deadline_s: 60.0,
            penalty: PenaltySpec::default(),
            outer: OuterSpec::default(),
        }
    }
}

/// The defaults of atorch's `anomaly_detection.py`, and softmax at temperature 1.
impl Default for PenaltySpec {
    fn default() -> PenaltySpec {
        PenaltySpec { enabled: true, temperature: 1.0, threshold: 3.0, newest: 0.02, warmup_meetings: 120 }
    }
}

/// The values of the README example of atorch's local SGD.
impl Default for OuterSpec {
    fn default() -> OuterSpec {
        OuterSpec { rate: 0.7, momentum: 0.8, clip: 10.0 }
    }
}
