//! What a step adds up: gradients, losses, expert loads.

use crate::bundle::Bundle;
use crate::inputs::Totals;
use crate::tally::{Losses, Tally};
use crate::weights::Weight;
use lingot_device::{Device, Kind, Result, Tensor};
use lingot_spec::ModelSpec;

/// The sums of a step's gradients, losses and loads, over all its micro-batches.
pub struct Gradients {
    /// The gradients, laid out as the parameters are.
    pub bundle: Bundle,
    /// The losses and loads.
    pub tally: Tally,
}

impl Gradients {
    /// Zeros for the gradients of `model`, of the given kind of sums.
    pub(crate) fn new(model: &ModelSpec, device: &Device, kind: Kind) -> Result<Gradients> {
        Ok(Gradients { bundle: Bundle::zeros(model, device, kind)?, tally: Tally::new(model, device, kind)? })
    }

    /// Sets everything to zero: the beginning of a step.
    pub fn clear(&self) -> Result<()> {
        self.bundle.clear()?;
        self.tally.clear()
    }

    /// The gradient of a parameter tensor, of its shape.
    pub(crate) fn of(&self, weight: &Weight) -> &Tensor {
        &self.bundle.tensors[weight.index]
    }

    /// The losses of a step of `totals`, in sequences of `sequence` tokens. Waits for the device.
    pub fn losses(&self, model: &ModelSpec, totals: Totals, sequence: usize) -> Result<Losses> {
        Ok(self.tally.counts()?.losses(model, totals, sequence))
    }
}
