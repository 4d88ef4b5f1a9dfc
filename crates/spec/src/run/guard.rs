//! What a run does about losses and gradients that leap: the section `guard` of a run.

use serde::{Deserialize, Serialize};

/// What a run does about losses and gradients that leap. A run in which none does computes the same bits
/// whatever is set here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardSpec {
    /// Whether a step is skipped whose loss or gradient norm leaps above those of the steps before.
    pub spikes: bool,
    /// Whether a skipped batch is tried again at a later step, then at a tenth of the rate, before its
    /// documents are set aside.
    pub retry: bool,
    /// Whether a run that has diverged goes back to its last sound checkpoint and goes on at a lower rate.
    pub fall_back: bool,
    /// Sound steps that a step is compared with.
    pub window: u32,
    /// Robust standard deviations above the median from which on a loss counts as a spike; twice as many for
    /// a gradient norm.
    pub deviations: f64,
}

impl Default for GuardSpec {
    fn default() -> GuardSpec {
        GuardSpec { spikes: true, retry: true, fall_back: true, window: 64, deviations: 10.0 }
    }
}
