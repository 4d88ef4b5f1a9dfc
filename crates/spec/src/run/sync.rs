//! How several workers train one model: the section `sync` of a run.

use serde::{Deserialize, Serialize};

/// How several workers train one model. Source of `edit` and `a_edit`: EDiT, arXiv 2412.07210.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyncSpec {
    /// When workers agree.
    pub strategy: Strategy,
    /// `edit`: steps that each worker takes alone between two meetings.
    pub every: u64,
    /// `a_edit`: seconds that each worker trains alone between two meetings.
    pub period_s: f64,
    /// `a_edit`: steps that all workers together must have taken before they meet; otherwise another period
    /// follows.
    pub least_steps: u64,
    /// `edit`, `a_edit`: first steps of the run in which gradients are summed instead.
    pub warmup_steps: u64,
    /// Speeds of emulated workers, in sequences per second, one worker per number. They take turns on
    /// `device`, each with a virtual clock.
    pub virtual_speeds: Vec<f64>,
    /// Seconds of silence after which a device of `devices` is dropped, if it has also been silent for ten
    /// times as long as its micro-batch should take.
    pub deadline_s: f64,
    /// How much each worker's change of a layer counts at a meeting.
    pub penalty: PenaltySpec,
    /// The step that all take together after a meeting.
    pub outer: OuterSpec,
}

/// When workers agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// In every step: gradients are summed. Up to rounding this equals one device.
    EveryStep,
    /// EDiT: each worker trains alone for `every` steps, then all agree layer by layer.
    Edit,
    /// A-EDiT: as EDiT, after `period_s` seconds instead of a number of steps.
    AEdit,
}

/// The pseudo-gradient penalty: how much each worker's change of a layer counts at a meeting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PenaltySpec {
    /// Whether anomalies are left out and changes weighted; otherwise all count alike.
    pub enabled: bool,
    /// Temperature of the weights, softmax(-norm / temperature) over the workers.
    pub temperature: f64,
    /// Standard deviations above its moving mean from which a norm is an anomaly; a deviation counts as at
    /// least 2 % of the mean.
    pub threshold: f64,
    /// Share of the newest norm in the moving mean and deviation, 0 to 1.
    pub newest: f64,
    /// First meetings at which no norm is judged.
    pub warmup_meetings: u64,
}

/// The step that all workers take together after a meeting: gradient descent with Nesterov's momentum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OuterSpec {
    /// Learning rate.
    pub rate: f64,
    /// Momentum, 0 to 1.
    pub momentum: f64,
    /// Largest norm of a layer's mean change, which is scaled down to it; 0 for no limit.
    pub clip: f64,
}

/// Period, least steps and warmup of A-EDiT's released code; `every` of its example.
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
