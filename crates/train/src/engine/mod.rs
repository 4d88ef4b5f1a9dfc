//! Who takes a step: one device alone, several in step, or several apart that meet now and then.
//!
//! The loop (`step.rs`) is the same for all. An engine says what the four verbs before *record* mean:
//!
//! | | `alone` | `in_step` | `apart` (EDiT, A-EDiT) |
//! |---|---|---|---|
//! | fetch | the step's micro-batches, read ahead | the step's micro-batches | which samples come next |
//! | differentiate | on the one device | each worker a share of them | each worker's own steps |
//! | agree | nothing to agree on | gradients are summed in the order of the batch | changes are weighed |
//! | update | AdamW at home | AdamW at home | the outer step |
//!
//! EDiT and A-EDiT: arXiv 2412.07210. Terms:
//! * *device*: what computes, the CPU or one accelerator; the *host* is the CPU that runs this program.
//! * *home*: where the master weights and AdamW's moments live (`home.rs`).
//! * *worker*: one model on one device that takes part in the run, known by its number. When its device is
//!   opened again, that is a new incarnation of the same worker.
//! * *member*: what executes a worker's commands on its device (`crew/member.rs`).
//! * *crew*: what the workers are and where they run: threads with a device each, or emulated (`crew`).
//! * *fleet*: the workers of one run, which of them take part, and their names and prices (`fleet`).
//! * *roster*: the list of devices in the run's file, as it is now (`config/roster.rs`).
//! * *meeting*: the moment when workers apart agree on weights. (The struct `Meeting` says what several
//!   workers did in a step, be they apart or in step.)
//! * *round*: the workers' own steps from one meeting to the next; one step of the loop.
//! * *outer step*: the update of the agreed weights by the weighted mean of the workers' changes.
//!
//! To add one, implement `Engine` and choose it in `step.rs`. What it needs of its workers, it asks of a
//! `Fleet`.
//!
//! **One failure policy** holds for all engines, in `step.rs`:
//! * A worker is dropped if its device fails or hangs, returns gradients that are not finite where another
//!   device's are, or brings weights that are not finite. The others do its work, nothing is lost that was
//!   agreed on, and it is retried later. The engine sees to that.
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
    /// The data of a step, or where it comes from.
    type Batch;
    /// What its workers bring.
    type Changes;

    /// Decides who takes part in the next step, and what is read.
    fn fetch(&mut self, training: &mut Training<'_>) -> Result<Self::Batch>;

    /// Computes what the batch changes: gradients, or weights.
    fn differentiate(&mut self, training: &mut Training<'_>, batch: Self::Batch) -> Result<Self::Changes>;

    /// Brings the changes together. Returns `None` if no worker took a step, because the run is to stop.
    fn agree(&mut self, training: &mut Training<'_>, changes: Self::Changes) -> Result<Option<Taken>>;

    /// Applies what was agreed, and advances the run's position.
    fn update(&mut self, training: &mut Training<'_>, taken: &Taken) -> Result<()>;

    /// Applies to the home what was agreed and put off, before an evaluation.
    fn settle(&mut self, _training: &mut Training<'_>) -> Result<()> {
        Ok(())
    }

    /// Collects from the workers what only they hold, before a snapshot. Errors if all are lost on the way; a
    /// snapshot is possible all the same.
    fn collect(&mut self, _training: &mut Training<'_>) -> Result<()> {
        Ok(())
    }

    /// Copies the last step that was agreed on, for a checkpoint. Contacts no worker, so it works when all
    /// are lost.
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
    /// The event for the log, without its step number.
    pub(crate) exchange: Exchange,
    /// Changes that are rejected.
    pub(crate) outliers: Vec<Outlier>,
    /// By worker; empty where emulated workers share one device.
    pub(crate) busy: Vec<Busy>,
    /// By worker, the most bytes held by tensors so far.
    pub(crate) peak_memory_bytes: Vec<u64>,
}

/// A worker's change of a layer that is rejected, and why.
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
