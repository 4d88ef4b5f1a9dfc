//! One device that trains alone: its home is on the device itself.
//!
//! The host waits for the device once per step, to read what the step found. Before that, it reads the next
//! step's batch and sends its first micro-batch to the device, which still computes. Which samples come next
//! depends on what the guard will decide of the present step. The batch that is read ahead is the one that
//! follows if the step is applied; another one is read if it is not. Nothing that was read ahead counts as
//! taken.

use super::{Engine, Fleet, PaidDevice, Taken};
use crate::checkpoint::Snapshot;
use crate::compute;
use crate::data::{Samples, StepBatch};
use crate::training::Training;
use lingot_model::{Inputs, Totals};
use lingot_spec::problem::Result;

/// The engine of one device.
#[derive(Default)]
pub(crate) struct Alone {
    /// The next step's batch, if it was read already.
    ahead: Option<Ahead>,
}

/// A step's batch.
pub(crate) struct Ahead {
    samples: Samples,
    batch: StepBatch,
    /// The first micro-batch on the device, if it was sent there already.
    uploaded: Option<Inputs>,
}

impl Alone {
    /// Reads the next step's batch while the device computes. What fails is tried again, and told, when the
    /// batch is fetched.
    fn read_ahead(&mut self, training: &Training<'_>) {
        let Some(samples) = training.after_next() else { return };
        let Ok(batch) = training.read(samples) else { return };
        let first = batch.micros.first();
        let uploaded = first.and_then(|first| compute::upload(&training.home.model, first).ok());
        self.ahead = Some(Ahead { samples, batch, uploaded });
    }
}

impl Engine for Alone {
    type Batch = Ahead;
    /// The gradients are in the home; this is what they were computed from.
    type Changes = Totals;

    fn fetch(&mut self, training: &mut Training<'_>) -> Result<Ahead> {
        let samples = training.next();
        if let Some(ahead) = self.ahead.take().filter(|ahead| ahead.samples == samples) {
            return Ok(ahead);
        }
        Ok(Ahead { samples, batch: training.read(samples)?, uploaded: None })
    }

    fn differentiate(&mut self, training: &mut Training<'_>, fetched: Ahead) -> Result<Totals> {
        let Ahead { batch, uploaded, .. } = fetched;
        training.home.differentiate(training.run, training.position.step, &batch, uploaded)?;
        Ok(batch.totals)
    }

    fn agree(&mut self, training: &mut Training<'_>, totals: Totals) -> Result<Option<Taken>> {
        self.read_ahead(training);
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
