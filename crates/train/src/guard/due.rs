//! What falls due between two steps.

use lingot_spec::RunSpec;

/// What is to be done before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) evaluation: bool,
    pub(crate) checkpoint: bool,
}

/// Returns what fell due after step `before`, up to step `now`. An interval of 0 steps never falls due.
pub(crate) fn due(run: &RunSpec, before: u64, now: u64) -> Due {
    let has_passed = |every: u64| every > 0 && now / every > before / every;
    Due { evaluation: has_passed(run.evaluation.every), checkpoint: has_passed(run.checkpoint.every) }
}
