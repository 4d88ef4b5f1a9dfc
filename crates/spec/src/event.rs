//! The lines of `run.jsonl`: everything that happens to a run, one event per line.

mod load;

use serde::{Deserialize, Deserializer, Serialize};

pub use load::ExpertLoad;

/// The version of the schema. It grows when a program that knows the old one would misread the new one.
pub const SCHEMA: u32 = 1;

/// One line. Numbers that are not finite are written as `null` and read back as NaN, whichever they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run begins.
    Start(Start),
    /// An optimizer step was taken.
    Step(Step),
    /// The loads of the experts.
    Experts(Experts),
    /// The held-out text was scored.
    Evaluation(Evaluation),
    /// A checkpoint was written.
    Checkpoint(Checkpoint),
    /// The run goes on from a checkpoint.
    Resume(Resume),
    /// Something unusual happened.
    Anomaly(Anomaly),
    /// Workers agreed.
    Exchange(Exchange),
    /// What was predicted.
    Prediction(Prediction),
    /// Where time and money went.
    Ledger(Ledger),
    /// The run is over.
    End(End),
    /// An event of a newer program; readers skip it.
    #[serde(other)]
    Unknown,
}

/// The run begins: the first line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// [`SCHEMA`] of the program that wrote the file.
    pub schema: u32,
    /// Version of Lingot.
    pub lingot: String,
    /// Name of the run.
    pub run: String,
    /// BLAKE3 of `RUN.toml` with every default filled in.
    pub config_hash: String,
    /// Name of the device, or of the devices.
    pub device: String,
    /// Trained numbers, without the multi-token-prediction layer.
    pub parameters: u64,
    /// Trained numbers that one token meets.
    pub activated_parameters: u64,
    /// Optimizer steps that the run is to take.
    pub steps: u64,
    /// Seconds since 1970-01-01 UTC.
    #[serde(deserialize_with = "number")]
    pub unix_time_s: f64,
    /// Currency of all money, where the run has a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// An optimizer step was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Steps taken so far, this one included.
    pub step: u64,
    /// The loss that was differentiated: the weighted sum of those below.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Mean cross-entropy of the next token, in nats.
    #[serde(deserialize_with = "number")]
    pub main_loss: f64,
    /// Mean cross-entropy of the token after the next, in nats, where the model predicts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtp_loss: Option<f64>,
    /// Balance loss of the routers, summed over layers, without its weight.
    #[serde(deserialize_with = "number")]
    pub balance_loss: f64,
    /// z-loss of the routers, summed over layers, without its weight.
    #[serde(deserialize_with = "number")]
    pub z_loss: f64,
    /// Learning rate.
    #[serde(deserialize_with = "number")]
    pub rate: f64,
    /// Norm of all gradients before clipping.
    #[serde(deserialize_with = "number")]
    pub gradient_norm: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Tokens trained on per second.
    #[serde(deserialize_with = "number")]
    pub tokens_per_s: f64,
    /// Seconds of training so far, all resumptions together.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
    /// Money spent so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Passes over the corpora so far.
    #[serde(deserialize_with = "number")]
    pub epoch: f64,
}

/// How evenly the tokens of a step were spread over the experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experts {
    /// Steps taken so far.
    pub step: u64,
    /// One per layer with a router.
    pub layers: Vec<ExpertLoad>,
}

/// The held-out text was scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps taken so far.
    pub step: u64,
    /// Mean cross-entropy of a token, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// `exp(loss)`.
    #[serde(deserialize_with = "number")]
    pub perplexity: f64,
    /// Cross-entropy in bits per byte of text, where the bytes are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
}

/// A checkpoint is safe on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Steps taken so far.
    pub step: u64,
    /// Its folder, relative to the run's.
    pub path: String,
    /// Seconds that the run waited for it.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

/// The run goes on from a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// Steps of the checkpoint.
    pub step: u64,
    /// Folder of the checkpoint, relative to the run's folder.
    pub from: String,
}

/// Something unusual happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Steps taken so far.
    pub step: u64,
    /// One word for machines, such as `not_finite`.
    pub kind: String,
    /// A sentence for people.
    pub reason: String,
}

/// Workers agreed, on a step's gradients or at a meeting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Steps taken so far.
    pub step: u64,
    /// A sentence for people: why they met.
    pub reason: String,
    /// Bytes that all workers together moved, as counted.
    pub bytes: u64,
    /// Bytes that they should have moved, as predicted.
    pub predicted_bytes: u64,
    /// The workers' parts, by rank.
    pub workers: Vec<WorkerShare>,
    /// On several devices, the parts of the batch in the order of their sum, so that a resumed run can
    /// compute the same bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<Piece>,
}

/// A part of a step's batch that one device computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Number of the worker that computed it.
    pub worker: usize,
    /// Number of micro-batches, which follow those of the piece before.
    pub micros: usize,
}

/// One worker's part in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerShare {
    /// Steps it took since the meeting before.
    pub own_steps: u64,
    /// Seconds of computing.
    #[serde(deserialize_with = "number")]
    pub busy_s: f64,
    /// Seconds of sending and receiving numbers.
    #[serde(default, deserialize_with = "number")]
    pub exchange_s: f64,
    /// Seconds of waiting for the slowest worker.
    #[serde(deserialize_with = "number")]
    pub waiting_s: f64,
    /// Weight of its change, the mean over layers.
    #[serde(deserialize_with = "number")]
    pub weight: f64,
}

/// What was predicted before the run began or went on, to be compared with the ledger at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Steps taken before.
    pub step: u64,
    /// Source of the prediction, such as `profile.toml`.
    pub from: String,
    /// Seconds of computing one step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_s: Option<f64>,
    /// Seconds of the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Largest sum of tensors on one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Money that the whole run costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Sentences for people: what could not be predicted, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// Where every second of every device went, from the run's first second to now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Steps taken so far.
    pub step: u64,
    /// Seconds of wall clock, all processes together: the sum of the parts of a device that was there all the
    /// time.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Every device that took part.
    pub devices: Vec<DeviceSeconds>,
    /// Money spent on all devices, lost time included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Money per million tokens trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money_per_million_tokens: Option<f64>,
    /// What the target loss takes, where the run has one that is reached or can be extrapolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// One device's time by what it did, and what that cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSeconds {
    /// Name of the device.
    pub device: String,
    /// Tokens trained on by this device; 0 where they were not counted by device.
    #[serde(default)]
    pub tokens: u64,
    /// Seconds of waiting for data, for the log, for other devices.
    #[serde(deserialize_with = "number")]
    pub idle_s: f64,
    /// Seconds of computing steps.
    #[serde(deserialize_with = "number")]
    pub compute_s: f64,
    /// Seconds of sending and receiving gradients or weights.
    #[serde(deserialize_with = "number")]
    pub exchange_s: f64,
    /// Seconds of waiting for checkpoints.
    #[serde(deserialize_with = "number")]
    pub checkpoint_s: f64,
    /// Seconds of scoring held-out text.
    #[serde(deserialize_with = "number")]
    pub evaluation_s: f64,
    /// Seconds of work that a kill undid.
    #[serde(deserialize_with = "number")]
    pub lost_s: f64,
    /// Largest sum of tensors since the process began; 0 where the device does not count it.
    #[serde(default)]
    pub peak_memory_bytes: u64,
    /// Price of an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<f64>,
    /// Money spent on this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
}

/// What the target loss took, or will take if the held-out loss continues to fall with the logarithm of the
/// tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The target, in nats per token.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Whether it is reached: then the numbers below are counted, otherwise extrapolated.
    pub is_reached: bool,
    /// Tokens until the target.
    #[serde(deserialize_with = "number")]
    pub tokens: f64,
    /// Seconds until the target.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
    /// Money until the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
}

/// The run is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Steps taken.
    pub step: u64,
    /// A sentence for people: why it stopped.
    pub reason: String,
    /// The last held-out loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training, all resumptions together.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
    /// Money spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
}

impl Event {
    /// The step after which the event happened; 0 for the start.
    pub fn step(&self) -> u64 {
        match self {
            Event::Start(_) | Event::Unknown => 0,
            Event::Step(event) => event.step,
            Event::Experts(event) => event.step,
            Event::Evaluation(event) => event.step,
            Event::Checkpoint(event) => event.step,
            Event::Resume(event) => event.step,
            Event::Anomaly(event) => event.step,
            Event::Exchange(event) => event.step,
            Event::Prediction(event) => event.step,
            Event::Ledger(event) => event.step,
            Event::End(event) => event.step,
        }
    }
}

impl DeviceSeconds {
    /// Returns the seconds of each part by its name.
    pub fn parts(&self) -> [(&'static str, f64); 6] {
        [
            ("compute", self.compute_s),
            ("exchange", self.exchange_s),
            ("checkpoint", self.checkpoint_s),
            ("evaluation", self.evaluation_s),
            ("idle", self.idle_s),
            ("lost", self.lost_s),
        ]
    }

    /// Returns the seconds of all parts together.
    pub fn seconds(&self) -> f64 {
        self.parts().iter().map(|(_, seconds)| seconds).sum()
    }
}

/// Reads a number that may not be finite: JSON has no word for it, so `null` stands for NaN.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
