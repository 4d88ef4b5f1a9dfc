//! What is said of a run that a device stopped: what is saved, and what to change.

use lingot_spec::RunSpec;
use lingot_spec::run::{Recompute, RecomputeSpec};
use lingot_spec::step::micro_batch_memory;
use lingot_spec::{Problem, ProblemKind};

/// What a run was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// The next step.
    Step,
    /// Scoring the held-out text.
    Evaluation,
    /// Saving a checkpoint.
    Checkpoint,
    /// Writing a checkpoint in the background.
    Saving,
    /// Writing down the step that was taken.
    Record,
}

/// Whether what is sound is saved before such a failure ends the run: a device or a file is at fault.
pub(crate) fn is_saved_before(kind: ProblemKind) -> bool {
    kind.is_device() || matches!(kind, ProblemKind::Io(_) | ProblemKind::Damaged)
}

/// The state of a run that a device stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped {
    pub(crate) doing: Doing,
    /// Steps taken.
    pub(crate) step: u64,
    /// The step of the newest checkpoint.
    pub(crate) saved_step: Option<u64>,
    /// Whether an update had overwritten weights in part.
    pub(crate) is_torn: bool,
}

/// Says what was not done and why, what is saved, and what to do.
pub(crate) fn explain(error: Problem, run: &RunSpec, stopped: &Stopped) -> Problem {
    let Stopped { doing, step, saved_step, is_torn } = *stopped;
    let undone = match doing {
        Doing::Step => format!("step {} was not done", step + 1),
        Doing::Evaluation => format!("the evaluation after step {step} was not done"),
        Doing::Checkpoint => format!("the checkpoint of step {step} is not complete"),
        Doing::Saving => format!("the run stops after step {step}"),
        Doing::Record => format!("step {step} was done but not written down"),
    };
    let left = match saved_step {
        Some(saved) if saved == step => format!("step {saved} is saved and the run goes on from it"),
        Some(saved) => format!("the newest checkpoint is of step {saved}, of {step} done"),
        None => format!("there is no checkpoint yet of the {step} steps done"),
    };
    let torn = if is_torn { "; it broke off half-way through the update" } else { "" };
    let problem = format!("{undone}: {}{torn}; {left}", error.problem);
    let is_full = matches!(error.kind, ProblemKind::DeviceFull { .. });
    let smaller = if is_full { smaller(run) } else { None };
    Problem { problem, hint: smaller.unwrap_or(error.hint), ..error }
}

/// The next smaller step, with its bytes by the shapes alone.
fn smaller(run: &RunSpec) -> Option<String> {
    let now = micro_batch_memory(run, run.batch.micro).peak_bytes;
    let micro = run.batch.micro;
    let mut changed = run.clone();
    let change = match (1..micro).rev().find(|less| micro.is_multiple_of(*less)) {
        Some(less) => {
            changed.batch.micro = less;
            format!("batch.micro = {less}")
        }
        None if run.device.recompute != RecomputeSpec::All(Recompute::Block) => {
            changed.device.recompute = RecomputeSpec::All(Recompute::Block);
            "device.recompute = \"block\"".into()
        }
        None => return None,
    };
    let then = micro_batch_memory(&changed, changed.batch.micro).peak_bytes;
    Some(format!(
        "run the same command with --set {change}: a step then takes {then} bytes of tensors instead of \
         {now}, and computes the same"
    ))
}
