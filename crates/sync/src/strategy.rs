//! When workers agree: pure decisions, with the numbers that led to them.
//!
//! EDiT (arXiv 2412.07210) is layer-wise local SGD with a pseudo-gradient penalty: workers train alone for a
//! fixed number of steps, then meet, and the weighted mean of their changes is the gradient of an outer step;
//! the penalty gives suspicious changes less weight or none. A-EDiT meets by time instead, so that workers of
//! different speeds take different numbers of steps.

use lingot_spec::run::{Strategy, SyncSpec};
use std::fmt;

/// The progress of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps taken in the run before this one, with the others or alone.
    pub step: u64,
    /// Steps that this worker took since the last meeting.
    pub own_steps: u64,
    /// Seconds of this worker since the last meeting.
    pub elapsed_s: f64,
    /// Seconds that its next step will probably take.
    pub next_step_s: f64,
    /// A-EDiT: times the period was extended because all workers together had taken too few steps.
    pub prolonged: u64,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// The workers sum their gradients in this step.
    InStep(InStep),
    /// The worker takes a step of its own.
    GoOn,
    /// The worker goes to the meeting.
    Meet(Meet),
}

/// Why gradients are summed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InStep {
    /// The strategy says so.
    EveryStep,
    /// The run is still in the warmup of EDiT.
    Warmup {
        /// Steps taken before.
        step: u64,
        /// Steps of the warmup.
        until: u64,
    },
}

/// Why workers meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meet {
    /// EDiT: enough steps are done.
    Steps {
        /// Steps that the worker took since the last meeting.
        done: u64,
    },
    /// A-EDiT: the middle of another step would lie beyond the period.
    Time {
        /// Seconds since the last meeting.
        elapsed_s: f64,
        /// Seconds that another step would take.
        next_step_s: f64,
        /// Seconds of the period, extensions included.
        period_s: f64,
    },
}

/// Returns what a worker does next.
///
/// EDiT meets when a worker has taken `every` steps of its own. A-EDiT's released code meets after the step
/// that crosses the period; here a worker does not begin a step whose middle lies beyond the period, so that,
/// as predicted, no worker ends more than half a step of its own from the end of the period. Its first step
/// is the exception: it is always taken.
pub fn next(spec: &SyncSpec, at: &Progress) -> Decision {
    match spec.strategy {
        Strategy::EveryStep => Decision::InStep(InStep::EveryStep),
        _ if at.step < spec.warmup_steps => {
            Decision::InStep(InStep::Warmup { step: at.step, until: spec.warmup_steps })
        }
        Strategy::Edit if at.own_steps >= spec.every => Decision::Meet(Meet::Steps { done: at.own_steps }),
        Strategy::AEdit => {
            let period_s = spec.period_s * (at.prolonged + 1) as f64;
            let (elapsed_s, next_step_s) = (at.elapsed_s, at.next_step_s);
            if at.own_steps > 0 && elapsed_s + next_step_s / 2.0 > period_s {
                Decision::Meet(Meet::Time { elapsed_s, next_step_s, period_s })
            } else {
                Decision::GoOn
            }
        }
        Strategy::Edit => Decision::GoOn,
    }
}

/// Checks that the workers may meet. Errors with the steps that all took together if these are fewer than
/// A-EDiT's `least_steps`: the period is then extended by another.
pub fn enough_steps(spec: &SyncSpec, own_steps: &[u64]) -> Result<(), u64> {
    let total = own_steps.iter().sum();
    if spec.strategy == Strategy::AEdit && total < spec.least_steps { Err(total) } else { Ok(()) }
}

impl fmt::Display for Meet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Meet::Steps { done } => write!(f, "{done} steps are done"),
            Meet::Time { elapsed_s, next_step_s, period_s } => write!(
                f,
                "{elapsed_s:.3} s of {period_s:.3} s have passed, and the next step takes {next_step_s:.3} s"
            ),
        }
    }
}
