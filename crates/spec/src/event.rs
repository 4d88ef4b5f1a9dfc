//! The lines of `run.jsonl`: everything that happens to a run, one event a line.

use serde::{Deserialize, Deserializer, Serialize};

/// The version of the schema; it grows when a reader of older files would misread a newer one.
pub const SCHEMA: u32 = 1;

/// One line. Numbers that are not finite are written as `null` and read back as not-a-number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Start(Start),
    Step(Step),
    Experts(Experts),
    Evaluation(Evaluation),
    Checkpoint(Checkpoint),
    Resume(Resume),
    Anomaly(Anomaly),
    Exchange(Exchange),
    Prediction(Prediction),
    Ledger(Ledger),
    End(End),
    /// Of a newer program: readers pass over it.
    #[serde(other)]
    Unknown,
}

/// The run begins: the first line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// `SCHEMA` of the program that writes.
    pub schema: u32,
    pub lingot: String,
    pub run: String,
    /// BLAKE3 of the resolved RUN.toml.
    pub config_hash: String,
    pub device: String,
    pub parameters: u64,
    pub activated_parameters: u64,
    /// Steps the run is laid out for.
    pub steps: u64,
    /// Seconds since 1970-01-01 UTC.
    pub unix_time_s: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// An optimizer step was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Steps taken so far, this one included.
    pub step: u64,
    /// What was differentiated: all losses below with their weights.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Cross-entropy of the next token.
    #[serde(deserialize_with = "number")]
    pub main_loss: f64,
    /// Cross-entropy of the multi-token-prediction layer, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtp_loss: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub balance_loss: f64,
    #[serde(deserialize_with = "number")]
    pub z_loss: f64,
    pub rate: f64,
    /// Global norm before clipping.
    #[serde(deserialize_with = "number")]
    pub gradient_norm: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    pub tokens_per_s: f64,
    /// Time spent training so far, all resumptions together.
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Passes over the corpora so far.
    pub epoch: f64,
}

/// How evenly the tokens of a step were spread over the experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experts {
    pub step: u64,
    pub layers: Vec<ExpertLoad>,
}

/// The load of one layer's experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertLoad {
    /// From 0; the multi-token-prediction layer comes after the last.
    pub layer: u32,
    /// The busiest expert's tokens over the mean; 1 when even.
    pub max_over_mean: f64,
    /// The least busy expert's tokens over the mean; 1 when even.
    pub min_over_mean: f64,
    /// Share of the experts that no token visited.
    pub idle_share: f64,
    /// Entropy of the load over its largest possible value, the logarithm of the number of experts; 1 when even.
    pub entropy: f64,
}

/// The held-out text was scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub step: u64,
    /// Mean cross-entropy of a token, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    #[serde(deserialize_with = "number")]
    pub perplexity: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
}

/// A checkpoint is safe on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub step: u64,
    /// Relative to the run's folder.
    pub path: String,
    /// Time the run waited for it.
    pub seconds: f64,
}

/// The run goes on from a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    pub step: u64,
    /// The checkpoint, relative to the run's folder.
    pub from: String,
}

/// Something was out of the ordinary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    pub step: u64,
    /// One word for machines, such as `not_finite`.
    pub kind: String,
    /// A sentence for people.
    pub reason: String,
}

/// Workers met and agreed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    pub step: u64,
    /// A sentence: why they met.
    pub reason: String,
    /// Counted where they were moved, all workers together.
    pub bytes: u64,
    /// By the cost model.
    pub predicted_bytes: u64,
    /// By rank.
    pub workers: Vec<WorkerShare>,
    /// Of several devices: what was summed, in this order, so that it can be computed again to the bit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<Piece>,
}

/// A part of a step's batch that one device computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub worker: usize,
    /// Micro-batches, following those of the piece before.
    pub micros: usize,
}

/// One worker's part in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerShare {
    /// Steps since the meeting before.
    pub own_steps: u64,
    pub busy_s: f64,
    /// Taking and bringing numbers.
    #[serde(default)]
    pub exchange_s: f64,
    /// For the last of the others.
    pub waiting_s: f64,
    /// How much its change counted, the mean over layers.
    pub weight: f64,
}

/// What was promised before the run began or went on, to be held against the ledger at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub step: u64,
    /// What it rests on, such as `profile.toml`.
    pub from: String,
    /// Computing one step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_s: Option<f64>,
    /// The whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The largest sum of tensors on one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Sentences: what could not be predicted, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// Where every second of every device went, from the run's first second to now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    pub step: u64,
    /// Wall clock, all processes together: the parts of a device that was there all the time sum to it.
    pub seconds: f64,
    /// Trained on so far.
    pub tokens: u64,
    pub devices: Vec<DeviceSeconds>,
    /// Of all devices, lost time included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money_per_million_tokens: Option<f64>,
    /// Where the run has a target loss that is reached or in sight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// One device's time by what it did, and what that cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceSeconds {
    pub device: String,
    /// Trained on by this device; 0 where nobody counted them by device.
    #[serde(default)]
    pub tokens: u64,
    /// Waiting: for data, for the log, for other devices.
    pub idle_s: f64,
    pub compute_s: f64,
    /// Sending and receiving gradients or weights.
    pub exchange_s: f64,
    pub checkpoint_s: f64,
    pub evaluation_s: f64,
    /// Done before a kill and done again after it.
    pub lost_s: f64,
    /// The largest sum of tensors since the process began; 0 where nobody counts.
    #[serde(default)]
    pub peak_memory_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
}

/// What the target loss took, or will take if the held-out loss goes on falling with the logarithm of the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub loss: f64,
    /// Reached: the numbers are counted. Otherwise they are extrapolated.
    pub is_reached: bool,
    pub tokens: f64,
    pub seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
}

/// The run is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub step: u64,
    /// A sentence for people: why it stopped.
    pub reason: String,
    /// The last held-out loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    pub tokens: u64,
    pub seconds: f64,
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
    /// Each part by its name; the money of a part is its share of the seconds.
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

    pub fn seconds(&self) -> f64 {
        self.parts().iter().map(|(_, seconds)| seconds).sum()
    }
}

impl ExpertLoad {
    /// The load of a layer whose experts received so many tokens each; even when there was nothing to spread.
    pub fn from_counts(layer: u32, counts: &[u64]) -> ExpertLoad {
        let total: u64 = counts.iter().sum();
        let experts = counts.len() as f64;
        if total == 0 {
            return ExpertLoad {
                layer,
                max_over_mean: 1.0,
                min_over_mean: 1.0,
                idle_share: 0.0,
                entropy: 1.0,
            };
        }
        let mean = total as f64 / experts;
        let largest = counts.iter().copied().max().unwrap_or(0) as f64;
        let smallest = counts.iter().copied().min().unwrap_or(0) as f64;
        let idle = counts.iter().filter(|&&count| count == 0).count() as f64;
        let entropy: f64 = counts
            .iter()
            .filter(|&&count| count > 0)
            .map(|&count| count as f64 / total as f64)
            .map(|share| -share * share.ln())
            .sum();
        let entropy = if counts.len() > 1 { entropy / experts.ln() } else { 1.0 };
        ExpertLoad {
            layer,
            max_over_mean: largest / mean,
            min_over_mean: smallest / mean,
            idle_share: idle / experts,
            entropy,
        }
    }
}

/// JSON has no word for a number that is not finite: it is written as `null`.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_load_has_ratios_of_one() {
        let load = ExpertLoad::from_counts(3, &[5, 5, 5, 5]);
        assert_eq!((load.max_over_mean, load.min_over_mean, load.idle_share), (1.0, 1.0, 0.0));
        assert!((load.entropy - 1.0).abs() < 1e-12);
        assert_eq!(ExpertLoad::from_counts(3, &[0, 0]).entropy, 1.0);
    }

    #[test]
    fn a_load_on_one_expert_has_no_entropy() {
        let load = ExpertLoad::from_counts(0, &[0, 8, 0, 0]);
        assert_eq!((load.max_over_mean, load.min_over_mean, load.idle_share), (4.0, 0.0, 0.75));
        assert_eq!(load.entropy, 0.0);
    }
}
