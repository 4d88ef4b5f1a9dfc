//! When workers meet: pure decisions, with the numbers that led to them.

use lingot_spec::run::{Strategy, SyncSpec};
use std::fmt;

/// How far one worker has come on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Steps of the run before this one, all workers in step or each on its own.
    pub step: u64,
    /// Steps of this worker since the last meeting.
    pub own_steps: u64,
    /// Time of this worker since the last meeting.
    pub elapsed_s: f64,
    /// What its next step will probably take.
    pub next_step_s: f64,
    /// A-EDiT: periods that were prolonged because too few steps were taken in all.
    pub prolonged: u64,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Sum gradients in this step.
    InStep(InStep),
    /// Take a step of its own.
    GoOn,
    /// Go to the meeting.
    Meet(Meet),
}

/// Why gradients are summed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InStep {
    EveryStep,
    Warmup { step: u64, until: u64 },
}

/// Why workers meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meet {
    /// EDiT: so many steps are done.
    Steps { done: u64 },
    /// A-EDiT: another step would end nearer to the next meeting than to this one.
    Time { elapsed_s: f64, next_step_s: f64, period_s: f64 },
}

/// What a worker does next.
///
/// EDiT meets when `(step - warmup) mod every == 0`. A-EDiT's released code meets after the step that crosses the
/// period; here a worker does not begin a step whose middle lies beyond it, so that the others wait for half a step of
/// the slowest at most, not for a whole one.
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

/// Whether the time to meet has come for all: A-EDiT goes on for another period when fewer than `least_steps` were
/// taken by all workers together. The error is the number of steps that were taken.
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
