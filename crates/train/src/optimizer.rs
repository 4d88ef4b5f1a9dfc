//! AdamW over all tensors of a model: its moments, the global gradient norm, and which tensors decay.

use crate::checkpoint::Tensor;
use crate::saving::{read_all, write_all};
use lingot_device::op::AdamRule;
use lingot_device::ops;
use lingot_model::{Bundle, Gradients, Model};
use lingot_spec::Result;
use lingot_spec::run::OptimizerSpec;
use lingot_spec::tensors::Role;
use std::path::Path;

/// The state of AdamW.
pub struct Optimizer {
    first: Bundle,
    second: Bundle,
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

    /// The global norm of the gradient, before clipping. To be called before `update`, which clips by it.
    pub fn gradient_norm(&self, gradients: &Gradients) -> Result<f64> {
        ops::fill(&self.squares_1, 0.0)?;
        ops::sum_of_squares(&gradients.bundle.flat, &self.squares_1)?;
        Ok(self.squares_1.to_doubles()?.iter().sum::<f64>().sqrt())
    }

    /// Step `step`, counted from 1, in place.
    pub fn update(
        &self,
        model: &Model,
        gradients: &Gradients,
        spec: &OptimizerSpec,
        rate: f64,
        step: u64,
    ) -> Result<()> {
        self.write(model, gradients, spec, (rate, step), &mut false)
    }

    /// As `update`, with the rate and the number of the step; `begun` becomes true once anything is written.
    pub(crate) fn write(
        &self,
        model: &Model,
        gradients: &Gradients,
        spec: &OptimizerSpec,
        (rate, step): (f64, u64),
        begun: &mut bool,
    ) -> Result<()> {
        for (index, tensor) in model.parameters.specs.iter().enumerate() {
            let rule = AdamRule {
                rate,
                beta1: spec.beta1,
                beta2: spec.beta2,
                epsilon: spec.epsilon,
                decay: if tensor.role == Role::Matrix { spec.decay } else { 0.0 },
                step,
                clip: spec.clip,
            };
            let moments = [&self.first.tensors[index], &self.second.tensors[index]];
            let gradient = &gradients.bundle.tensors[index];
            ops::adamw(&model.parameters.tensors[index], gradient, moments, &self.squares_1, rule)?;
            *begun = true;
        }
        Ok(())
    }

    /// Both moments, each as one flat tensor.
    pub fn flats(&self) -> [&lingot_device::Tensor; 2] {
        [&self.first.flat, &self.second.flat]
    }

    /// Both moments, for a checkpoint.
    pub(crate) fn tensors(&self) -> Result<Vec<Tensor>> {
        let mut all = read_all("first/", &self.first.specs, &self.first.tensors)?;
        all.extend(read_all("second/", &self.second.specs, &self.second.tensors)?);
        Ok(all)
    }

    /// Both moments from a checkpoint.
    pub(crate) fn restore(&self, path: &Path, moments: &[Tensor]) -> Result<()> {
        write_all(path, "first/", &self.first.specs, &self.first.tensors, moments)?;
        write_all(path, "second/", &self.second.specs, &self.second.tensors, moments)
    }
}
