//! Where master weights and moments live, and where the optimizer runs.
//!
//! A home is on the device itself where one device trains alone, and on the host where several train
//! together: no device is then needed to go on, and all devices take the same bits. Working copies of the
//! weights reach the devices through commands (`crew`); today each is whole. There is one kind of home, so it
//! is a struct and not a trait. A home that lives elsewhere, such as in shards on several machines, has to
//! offer the same: `differentiate` (only where it computes itself), `outcome`, `update`, and access to its
//! weights and moments for snapshots and working copies.

use crate::compute::{self, Micro, Outcome};
use crate::data::StepBatch;
use crate::optimizer::{At, Optimizer};
use lingot_device::Device;
use lingot_model::{Gradients, Inputs, Model, Totals};
use lingot_spec::RunSpec;
use lingot_spec::problem::Result;

/// The master weights with what updates them.
pub(crate) struct Home {
    /// Parameters and the routers' state.
    pub(crate) model: Model,
    /// Sums over the micro-batches of one step.
    pub(crate) gradients: Gradients,
    /// AdamW's moments.
    pub(crate) optimizer: Optimizer,
    /// Whether an update failed after it had begun to write: weights and moments are then of no step.
    pub(crate) is_torn: bool,
}

impl Home {
    /// Makes a home on a device, with the initial weights of the run's seed.
    pub(crate) fn new(run: &RunSpec, device: &Device) -> Result<Home> {
        Home::of(Model::new(&run.model, device, run.device.precision.into(), run.seed)?)
    }

    /// Makes a home whose weights and moments are zero, to be overwritten by a checkpoint's.
    pub(crate) fn blank(run: &RunSpec, device: &Device) -> Result<Home> {
        Home::of(Model::blank(&run.model, device, run.device.precision.into())?)
    }

    fn of(model: Model) -> Result<Home> {
        let (gradients, optimizer) = (model.gradients()?, Optimizer::new(&model)?);
        Ok(Home { model, gradients, optimizer, is_torn: false })
    }

    /// Computes the gradients of a whole step here, micro-batch by micro-batch. `step` steps were taken
    /// before it. The first micro-batch may be on the device already, as `uploaded`.
    pub(crate) fn differentiate(
        &self,
        run: &RunSpec,
        step: u64,
        batch: &StepBatch,
        mut uploaded: Option<Inputs>,
    ) -> Result<()> {
        self.gradients.clear()?;
        let mut first_sequence = 0;
        for micro in &batch.micros {
            let inputs = uploaded.take().map_or_else(|| compute::upload(&self.model, micro), Ok)?;
            let within = Micro { step, first_sequence, batch: micro, totals: batch.totals };
            compute::differentiate(run, &self.model, &self.gradients, &within, &inputs)?;
            first_sequence += micro.sequences as u64;
        }
        Ok(())
    }

    /// Reads losses, norm and loads from gradients that hold a whole step. Waits for the device, once.
    pub(crate) fn outcome(&self, run: &RunSpec, totals: Totals) -> Result<Outcome> {
        Outcome::read(run, &self.gradients, &self.optimizer, totals)
    }

    /// Applies the gradients of a whole step, whose outcome was read. Does not wait.
    pub(crate) fn update(&mut self, run: &RunSpec, at: At, totals: Totals, outcome: &Outcome) -> Result<()> {
        self.optimizer.write(&self.model, &self.gradients, &run.optimizer, at, &mut self.is_torn)?;
        self.model.balance(&self.gradients.tally)?;
        if at.step < run.model.router.warmup_steps {
            self.model.follow_logits(&outcome.moments, totals, at.step);
        }
        self.is_torn = false;
        Ok(())
    }
}
