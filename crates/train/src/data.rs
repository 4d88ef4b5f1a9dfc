//! What a step reads: a run's shards, and their samples cut into micro-batches.

use crate::checkpoint::newest;
use crate::resume::another_folder;
use lingot_data::{Batch, Dataset};
use lingot_model::{Rows, Totals};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::RunSpec;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Data of up to this size is compared with its hashes before the first step; it takes a moment.
const AT_ONCE_BYTES: u64 = 64 << 20;

/// The samples of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Samples {
    /// The first one's number.
    pub(crate) first: u64,
    pub(crate) sequences: u32,
}

/// The micro-batches of one step.
#[derive(Clone)]
pub struct StepBatch {
    /// Each holds `batch.micro` sequences.
    pub micros: Vec<Batch>,
    /// Tokens and targets of all micro-batches together.
    pub totals: Totals,
}

impl StepBatch {
    /// Reads `sequences` samples, beginning with sample `first`, and cuts them into micro-batches.
    pub fn read(run: &RunSpec, dataset: &Dataset, first: u64, sequences: u32) -> Result<StepBatch> {
        let micro = run.batch.micro;
        let from = (0..sequences).step_by(micro as usize);
        let micros: Vec<Batch> =
            from.map(|from| dataset.training(first + u64::from(from), micro)).collect::<Result<_>>()?;
        let mut totals = Totals::default();
        micros.iter().for_each(|micro| totals.add(&rows(micro), run.model.mtp_layers > 0));
        Ok(StepBatch { micros, totals })
    }
}

/// Makes the shards of a run, unless they are there, and opens them. Where the run has checkpoints, the hint
/// about data that has changed is not to make it again: the run could not go on with it.
pub fn prepare_data(run: &RunSpec, progress: lingot_data::Progress<'_>) -> Result<Dataset> {
    let folder = data_folder(run);
    let is_begun = newest::list(&Path::new(&run.folder).join("checkpoints")).is_ok_and(|all| !all.is_empty());
    let made = lingot_data::prepare_to_train(&run.data, run.model.vocabulary, run.seed, &folder, progress);
    made.map_err(|error| match error.kind {
        ProblemKind::Changed if is_begun => {
            Problem { hint: another_folder(run), ..error }.of(ProblemKind::Input)
        }
        ProblemKind::Changed => error.of(ProblemKind::Input),
        _ => error,
    })
}

/// The folder of a run's shards and tokenizer.
pub fn data_folder(run: &RunSpec) -> PathBuf {
    run.data.cache.as_ref().map_or_else(|| Path::new(&run.folder).join("data"), PathBuf::from)
}

/// The comparison of the prepared files with the hashes that they had when they were made.
pub(crate) struct DataCheck {
    /// Steps that were taken before it began.
    pub(crate) first_step: u64,
    running: Option<JoinHandle<Result<()>>>,
    is_abandoned: Arc<AtomicBool>,
}

impl DataCheck {
    /// Compares little data at once and much in the background. Errors if little data was changed.
    pub(crate) fn begin(dataset: &Dataset) -> Result<DataCheck> {
        let files = dataset.files();
        let is_abandoned = Arc::<AtomicBool>::default();
        let mut check = DataCheck { first_step: 0, running: None, is_abandoned: is_abandoned.clone() };
        if files.bytes() <= AT_ONCE_BYTES {
            files.check(&is_abandoned)?;
        } else {
            let work = move || files.check(&is_abandoned);
            let thread = std::thread::Builder::new().name("hashes".into()).spawn(work);
            check.running = Some(thread.map_err(|error| Problem::io("check", Path::new("data"), &error))?);
        }
        Ok(check)
    }

    /// Whether it goes on.
    pub(crate) fn is_pending(&self) -> bool {
        self.running.is_some()
    }

    /// Errors once the files are known to have changed.
    pub(crate) fn poll(&mut self) -> Result<()> {
        match self.running.take_if(|running| running.is_finished()) {
            None => Ok(()),
            Some(running) => running.join().unwrap_or_else(|_| {
                Err(Problem::bug("the thread that compares the data with its hashes panicked"))
            }),
        }
    }
}

impl Drop for DataCheck {
    fn drop(&mut self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }
}

/// A batch on the host, in the form that the model takes.
pub(crate) fn rows(batch: &Batch) -> Rows<'_> {
    Rows {
        tokens_t: &batch.tokens,
        targets_t: &batch.targets,
        starts_t: &batch.starts,
        positions_t: &batch.positions,
        sequence: batch.sequence,
    }
}
