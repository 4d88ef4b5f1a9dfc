//! AdamW over all tensors of a model: its moments, the global gradient norm, and which tensors decay.

use lingot_device::op::AdamRule;
use lingot_device::{Error, ops};
use lingot_model::{Bundle, Gradients, Model};
use lingot_spec::Result;
use lingot_spec::run::OptimizerSpec;
use lingot_spec::tensors::{Role, spans};
use std::ops::Range;

/// When a step happens, and how far it goes.
#[derive(Clone, Copy)]
pub(crate) struct At {
    /// Steps taken before this one.
    pub(crate) step: u64,
    /// The learning rate.
    pub(crate) rate: f64,
}

/// The state of AdamW.
pub struct Optimizer {
    /// The running mean of the gradient.
    pub(crate) first: Bundle,
    /// The running mean of the gradient's square.
    pub(crate) second: Bundle,
    /// The numbers of the parameters that decay.
    decayed: Vec<Range<usize>>,
}

impl Optimizer {
    /// Moments of zero.
    pub fn new(model: &Model) -> Result<Optimizer> {
        let kind = model.parameters.flat.kind();
        Ok(Optimizer {
            first: Bundle::zeros(&model.spec, &model.device, kind)?,
            second: Bundle::zeros(&model.spec, &model.device, kind)?,
            decayed: spans(&model.parameters.specs, |tensor| tensor.role == Role::Matrix),
        })
    }

    /// Has the device add up the squares of the gradients, which `update` clips by: they lie in the tally
    /// afterwards, to be read with everything else that the step found. Does not wait.
    pub fn sum_squares(&self, gradients: &Gradients) -> Result<()> {
        let squares_1 = &gradients.tally.squares_1;
        ops::fill(squares_1, 0.0)?;
        Ok(ops::sum_of_squares(&gradients.bundle.flat, squares_1)?)
    }

    /// Returns the global norm of the gradient before clipping; `update`, which clips by it, comes after this
    /// call. Waits for the device.
    pub fn gradient_norm(&self, gradients: &Gradients) -> Result<f64> {
        self.sum_squares(gradients)?;
        Ok(gradients.tally.read()?.squares.sqrt())
    }

    /// Applies step `step`, counted from 1, in place.
    pub fn update(
        &self,
        model: &Model,
        gradients: &Gradients,
        spec: &OptimizerSpec,
        rate: f64,
        step: u64,
    ) -> Result<()> {
        self.write(model, gradients, spec, At { step: step - 1, rate }, &mut false)
    }

    /// Does what `update` does; `has_written` becomes true once anything is written.
    pub(crate) fn write(
        &self,
        model: &Model,
        gradients: &Gradients,
        spec: &OptimizerSpec,
        at: At,
        has_written: &mut bool,
    ) -> Result<()> {
        let rule = AdamRule {
            rate: at.rate,
            beta1: spec.beta1,
            beta2: spec.beta2,
            epsilon: spec.epsilon,
            decay: spec.decay,
            step: at.step + 1,
            clip: spec.clip,
        };
        let working = model.working.as_ref().map(|working| &working.flat);
        let (parameters, squares_1) = (&model.parameters.flat, &gradients.tally.squares_1);
        let gradients = &gradients.bundle.flat;
        let outcome =
            ops::adamw(parameters, gradients, self.flats(), squares_1, rule, &self.decayed, working);
        *has_written |= outcome.as_ref().map_or_else(Error::is_half_done, |()| true);
        Ok(outcome?)
    }

    /// Returns both moments, each as one flat tensor.
    pub fn flats(&self) -> [&lingot_device::Tensor; 2] {
        [&self.first.flat, &self.second.flat]
    }
}
