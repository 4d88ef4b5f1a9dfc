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
        let tally = &self.tally;
        let tokens = totals.tokens as f64;
        let scopes = tokens / (sequence as f64 * f64::from(model.router.balance_sequences));
        let mut losses = Losses {
            main: tally.main_2.to_doubles()?[0] / (totals.targets as f64).max(1.0),
            mtp: tally.mtp_2.to_doubles()?[0] / (totals.mtp_targets as f64).max(1.0),
            ..Losses::default()
        };
        for routed in &tally.routed {
            let sums = routed.losses_2.to_doubles()?;
            losses.balance += sums[0] / scopes;
            losses.z += sums[1] / tokens;
        }
        losses.total = losses.main
            + model.mtp_weight * losses.mtp
            + model.router.balance_loss * losses.balance
            + model.router.z_loss * losses.z;
        Ok(losses)
    }
}
