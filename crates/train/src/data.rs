//! What a step reads: a run's shards, and their samples cut into micro-batches.

use lingot_data::{Batch, Dataset};
use lingot_model::{Rows, Totals};
use lingot_spec::problem::Result;
use lingot_spec::run::RunSpec;
use std::path::{Path, PathBuf};

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

/// Makes the shards of a run, unless they are there, and opens them.
pub fn prepare_data(run: &RunSpec, progress: lingot_data::Progress<'_>) -> Result<Dataset> {
    let folder = data_folder(run);
    lingot_data::prepare_to_train(&run.data, run.model.vocabulary, run.seed, &folder, progress)
}

/// The folder of a run's shards and tokenizer.
pub fn data_folder(run: &RunSpec) -> PathBuf {
    run.data.cache.as_ref().map_or_else(|| Path::new(&run.folder).join("data"), PathBuf::from)
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
