//! When to give up because losses or gradients are not finite, or far from any that a model that learns has.

use lingot_spec::problem::{Problem, ProblemKind, Result};

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
    Err(Problem::new(problem, lower_the_rate(rate)).of(ProblemKind::Diverged))
}

/// The problem of a round in which no worker took a step that could be applied.
pub(crate) fn nothing_finite(step: u64, rate: f64) -> Problem {
    let problem =
        format!("no worker had a finite loss and gradient in the round that began after step {step}");
    Problem::new(problem, lower_the_rate(rate)).of(ProblemKind::Diverged)
}

pub(crate) fn lower_the_rate(rate: f64) -> String {
    format!(
        "lower optimizer.rate ({rate}) and run the same command again: it goes on from the last sound \
         checkpoint"
    )
}

/// Whether a loss, in nats per token, can be that of a model that learns: a model that knows nothing has the
/// logarithm of the vocabulary.
pub(crate) fn is_sane(loss: f64, vocabulary: u32) -> bool {
    loss.is_finite() && loss < 2.0 * f64::from(vocabulary).ln() + 5.0
}
