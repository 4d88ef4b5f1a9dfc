//! Who takes a step: one device alone, several in step, or several apart that meet now and then.
//!
//! The loop (`step.rs`) is the same for all. An engine says what the four verbs before *record* mean:
//!
//! | | `alone` | `in_step` | `apart` (EDiT, A-EDiT) |
//! |---|---|---|---|
//! | fetch | the step's micro-batches | the same | which samples each worker takes next |
//! | differentiate | on the one device | each worker a share of them | each worker's own steps |
//! | agree | nothing to agree on | gradients are summed in the order of the batch | changes are weighed |
//! | update | AdamW at home | AdamW at home | the outer step |
//!
//! To add one, implement `Engine` and choose it in `step.rs`. What it needs of its workers, it asks of a
//! `Fleet`.
//!
//! **One failure policy** holds for all engines, in `step.rs`:
//! * A worker whose device fails, hangs or computes nonsense leaves. The others do its work, nothing is lost
//!   that was agreed on, and it is tried again later. The engine sees to that.
//! * When devices stop the whole run (the only one fails or is full, or all workers are lost), it ends in an
//!   error. First what is sound is saved: the engine's `snapshot` of the last step that was agreed on. The
//!   error says what was not done, what is saved, and what to change.
//! * Any other error is returned as it is, once the save under way is finished.

mod alone;
mod apart;
mod fleet;
mod in_step;

pub(crate) use alone::Alone;
pub(crate) use apart::Apart;
pub(crate) use fleet::{DeviceChange, Fleet, PaidDevice};
pub(crate) use in_step::InStep;

use crate::checkpoint::Snapshot;
use crate::compute::Outcome;
use crate::training::Training;
use lingot_model::Totals;
use lingot_spec::event::Exchange;
use lingot_spec::problem::Result;
use lingot_sync::penalty::Verdict;
use std::time::Duration;

/// What takes the steps of a run.
pub(crate) trait Engine {
    /// What a step reads, or from where.
    type Batch;
    /// What its workers bring.
    type Changes;

    /// Decides who takes part in the next step, and what is read.
    fn fetch(&mut self, training: &mut Training<'_>) -> Result<Self::Batch>;

    /// Computes what the batch changes: gradients, or weights.
    fn differentiate(&mut self, training: &mut Training<'_>, batch: Self::Batch) -> Result<Self::Changes>;

    /// Brings the changes together. None where no worker took a step, because the run is to stop.
    fn agree(&mut self, training: &mut Training<'_>, changes: Self::Changes) -> Result<Option<Taken>>;

    /// Applies what was agreed, and advances the run's position.
    fn update(&mut self, training: &mut Training<'_>, taken: &Taken) -> Result<()>;

    /// Brings into the home what was agreed, where that was put off: the home is to be scored.
    fn settle(&mut self, _training: &mut Training<'_>) -> Result<()> {
        Ok(())
    }

    /// Collects from the workers what only they hold, before a snapshot. Errors if all are lost on the way; a
    /// snapshot is possible all the same.
    fn collect(&mut self, _training: &mut Training<'_>) -> Result<()> {
        Ok(())
    }

    /// Copies the last step that was agreed on, for a checkpoint. Asks no worker, so it works when all are
    /// lost.
    fn snapshot(&mut self, training: &Training<'_>) -> Result<Snapshot>;

    /// The devices that are paid for, now or earlier in this process.
    fn devices(&self, training: &Training<'_>) -> Vec<PaidDevice>;

    /// The workers, where there are several.
    fn fleet(&mut self) -> Option<&mut Fleet>;
}

/// A step on whose result all agree: one of the run's, or the steps between two meetings.
pub(crate) struct Taken {
    /// Means over the steps of all workers, where they are apart.
    pub(crate) outcome: Outcome,
    pub(crate) totals: Totals,
    /// What the workers did, where there are several.
    pub(crate) meeting: Option<Meeting>,
}

/// What the workers of a step did.
pub(crate) struct Meeting {
    /// The event for the log, but for the step.
    pub(crate) exchange: Exchange,
    /// Changes that do not count.
    pub(crate) outliers: Vec<Outlier>,
    /// By worker; empty where emulated workers share one device.
    pub(crate) busy: Vec<Busy>,
    /// By worker, the largest sum of tensors so far.
    pub(crate) peak_memory_bytes: Vec<u64>,
}

/// A worker's change of a layer that does not count, and why.
pub(crate) struct Outlier {
    pub(crate) layer: String,
    pub(crate) worker: usize,
    pub(crate) verdict: Verdict,
}

/// How long one device computed and exchanged in a step; the rest of the step it was idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Computing.
    pub compute: Duration,
    /// Moving numbers between host and device.
    pub exchange: Duration,
    /// Tokens trained on in the step.
    pub tokens: u64,
}
