//! One device that trains alone: its home is on the device itself.

use super::{Engine, Fleet, PaidDevice, Taken};
use crate::checkpoint::Snapshot;
use crate::data::StepBatch;
use crate::training::Training;
use lingot_model::Totals;
use lingot_spec::problem::Result;

/// The engine of one device.
pub(crate) struct Alone;

impl Engine for Alone {
    type Batch = StepBatch;
    /// The gradients are in the home; this is what they were computed from.
    type Changes = Totals;

    fn fetch(&mut self, training: &mut Training<'_>) -> Result<StepBatch> {
        training.fetch()
    }

    fn differentiate(&mut self, training: &mut Training<'_>, batch: StepBatch) -> Result<Totals> {
        training.home.differentiate(training.run, training.position.step, &batch)?;
        Ok(batch.totals)
    }

    fn agree(&mut self, training: &mut Training<'_>, totals: Totals) -> Result<Option<Taken>> {
        let outcome = training.home.outcome(training.run, totals)?;
        Ok(Some(Taken { outcome, totals, meeting: None }))
    }

    fn update(&mut self, training: &mut Training<'_>, taken: &Taken) -> Result<()> {
        training.update(taken.totals, &taken.outcome)
    }

    fn snapshot(&mut self, training: &Training<'_>) -> Result<Snapshot> {
        Snapshot::of(&training.home)
    }

    fn devices(&self, training: &Training<'_>) -> Vec<PaidDevice> {
        vec![PaidDevice {
            name: training.home.model.device.info().name.clone(),
            per_hour: training.run.price.as_ref().map(|price| price.per_hour),
            is_here: true,
        }]
    }

    fn fleet(&mut self) -> Option<&mut Fleet> {
        None
    }
}
