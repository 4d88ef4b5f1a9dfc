//! AdamW over all tensors of a model: its moments, the global gradient norm, and which tensors decay.

use lingot_device::op::AdamRule;
use lingot_device::ops;
use lingot_model::{Bundle, Gradients, Model};
use lingot_spec::Result;
use lingot_spec::run::OptimizerSpec;
use lingot_spec::tensors::Role;

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
    /// The sum of squares of the step's gradient, on the device.
    squares_1: lingot_device::Tensor,
}

impl Optimizer {
    /// Moments of zero.
    pub fn new(model: &Model) -> Result<Optimizer> {
        let kind = model.parameters.flat.kind();
        Ok(Optimizer {
            first: Bundle::zeros(&model.spec, &model.device, kind)?,
            second: Bundle::zeros(&model.spec, &model.device, kind)?,
            squares_1: model.device.zeros(&[1], kind)?,
        })
    }

    /// Returns the global norm of the gradient before clipping; `update`, which clips by it, comes after this
    /// call.
    pub fn gradient_norm(&self, gradients: &Gradients) -> Result<f64> {
        ops::fill(&self.squares_1, 0.0)?;
        ops::sum_of_squares(&gradients.bundle.flat, &self.squares_1)?;
        Ok(self.squares_1.to_doubles()?.iter().sum::<f64>().sqrt())
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
        for (index, tensor) in model.parameters.specs.iter().enumerate() {
            let rule = AdamRule {
                rate: at.rate,
                beta1: spec.beta1,
                beta2: spec.beta2,
                epsilon: spec.epsilon,
                decay: if tensor.role == Role::Matrix { spec.decay } else { 0.0 },
                step: at.step + 1,
                clip: spec.clip,
            };
            let moments = [&self.first.tensors[index], &self.second.tensors[index]];
            let gradient = &gradients.bundle.tensors[index];
            let working = model.working.as_ref().map(|working| &working.tensors[index]);
            let parameter = &model.parameters.tensors[index];
            ops::adamw(parameter, gradient, moments, &self.squares_1, rule, working)?;
            *has_written = true;
        }
        Ok(())
    }

    /// Returns both moments, each as one flat tensor.
    pub fn flats(&self) -> [&lingot_device::Tensor; 2] {
        [&self.first.flat, &self.second.flat]
    }
}
