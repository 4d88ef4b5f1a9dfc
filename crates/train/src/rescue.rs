//! What becomes of a run whose device fails within a step: the steps before it are kept, and the error says what to change.
//!
//! Weights and moments change only in the update, which allocates before it writes. So a device that ran out of room still
//! holds the last finished step, and it is saved. One that answers no more has taken it along, and an update that broke off
//! half-way has overwritten some of it; then the newest checkpoint is what is left.

use crate::config::Resolved;
use crate::record::Record;
use crate::worker::{self, Worker};
use lingot_spec::RunSpec;
use lingot_spec::run::{Recompute, RecomputeSpec};
use lingot_spec::step::{self, Batch};
use lingot_spec::{Problem, ProblemKind};

/// Saves what can be saved of a run whose next step failed with `error`.
pub(crate) fn rescue(
    error: Problem,
    worker: &mut Worker<'_>,
    record: &mut Record<'_>,
    resolved: &Resolved,
) -> Problem {
    if !error.kind.is_device() {
        return error;
    }
    let before = worker.saved_step;
    let saved = match before {
        Some(step) if step == worker.step => true,
        _ => !worker.torn && record.checkpoint(worker, resolved).is_ok(),
    };
    let written = worker.saver.finish();
    let kept = if saved && written.is_ok() { Some(worker.step) } else { before };
    let left = match kept {
        Some(step) if step == worker.step => format!("step {step} is saved and the run goes on from it"),
        Some(step) => format!("the newest checkpoint is of step {step}, of {} done", worker.step),
        None => format!("there is no checkpoint yet of the {} steps done", worker.step),
    };
    let torn = if worker.torn { "; it broke off half-way through the update" } else { "" };
    let problem = format!("step {} was not done: {}{torn}; {left}", worker.step + 1, error.problem);
    let hint = if matches!(error.kind, ProblemKind::DeviceFull { .. }) {
        smaller(worker.run).unwrap_or(error.hint)
    } else {
        error.hint
    };
    Problem { problem, hint, ..error }
}

/// The next smaller step, with its bytes by the shapes alone.
fn smaller(run: &RunSpec) -> Option<String> {
    let now = peak_bytes(run);
    let micro = run.batch.micro;
    let less = (1..micro).rev().find(|less| micro.is_multiple_of(*less));
    let (change, run) = match less {
        Some(less) => {
            let mut run = run.clone();
            run.batch.micro = less;
            (format!("batch.micro = {less}"), run)
        }
        None if run.device.recompute != RecomputeSpec::All(Recompute::Block) => {
            let mut run = run.clone();
            run.device.recompute = RecomputeSpec::All(Recompute::Block);
            ("device.recompute = \"block\"".into(), run)
        }
        None => return None,
    };
    let then = peak_bytes(&run);
    Some(format!(
        "run the same command with --set {change}: a step then takes {then} bytes of tensors instead of {now}, and \
         computes the same"
    ))
}

/// The most that the tensors of one step take.
fn peak_bytes(run: &RunSpec) -> u64 {
    let batch = Batch {
        micro: run.batch.micro as usize,
        micros: 1,
        sequence: run.data.sequence as usize,
        recompute: &worker::recompute(run),
        warming: run.model.router.warmup_steps > 0,
    };
    step::step(&run.model, &batch).memory.peak_bytes
}
