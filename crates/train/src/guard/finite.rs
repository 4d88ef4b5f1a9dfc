//! When to give up because losses or gradients are not finite.

use lingot_spec::problem::{Problem, Result};

/// Steps without a finite loss or gradient that a run skips in a row; at this many it gives up.
const SKIPPED_LIMIT: u32 = 10;

/// Errors if too many steps in a row were skipped. `step` steps were taken before the one that was skipped
/// last, whose peak learning rate is `rate`.
pub(crate) fn check_skipped(skipped: u32, step: u64, rate: f64) -> Result<()> {
    if skipped < SKIPPED_LIMIT {
        return Ok(());
    }
    let step = step + 1;
    let problem = format!("{skipped} steps in a row had no finite loss or gradient; the last is step {step}");
    Err(Problem::new(problem, lower_the_rate(rate)))
}

/// The problem of a round in which no worker took a step that could be applied.
pub(crate) fn nothing_finite(step: u64, rate: f64) -> Problem {
    let problem =
        format!("no worker had a finite loss and gradient in the round that began after step {step}");
    Problem::new(problem, lower_the_rate(rate))
}

fn lower_the_rate(rate: f64) -> String {
    format!(
        "lower optimizer.rate ({rate}) and run the same command again: it goes on from the newest checkpoint"
    )
}
