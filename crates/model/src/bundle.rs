//! Named tensors in a fixed order, one after the other in one allocation.

use crate::initial;
use lingot_device::{Device, Kind, Result, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::tensors::{Role, TensorSpec, tensors};

/// Parameters, gradients or moments: one number for each parameter of a model.
pub struct Bundle {
    /// Names, shapes and roles, in the order of `spec::tensors::tensors`.
    pub specs: Vec<TensorSpec>,
    /// The tensors, one per entry of `specs`: views of `flat`.
    pub tensors: Vec<Tensor>,
    /// All numbers as one flat tensor.
    pub flat: Tensor,
}

impl Bundle {
    /// Allocates zeros, laid out for `model`.
    pub fn zeros(model: &ModelSpec, device: &Device, kind: Kind) -> Result<Bundle> {
        let bundle = Bundle::empty(model, device, kind)?;
        bundle.clear()?;
        Ok(bundle)
    }

    /// Allocates numbers that are unspecified, to be overwritten.
    pub(crate) fn empty(model: &ModelSpec, device: &Device, kind: Kind) -> Result<Bundle> {
        let specs = tensors(model);
        let count = specs.iter().map(numbers).sum();
        let flat = device.empty(&[count], kind)?;
        let mut from = 0;
        let mut views = Vec::with_capacity(specs.len());
        for spec in &specs {
            views.push(flat.rows(from, numbers(spec)).reshape(&spec.shape));
            from += numbers(spec);
        }
        Ok(Bundle { specs, tensors: views, flat })
    }

    /// Allocates initial parameters: matrices normal with the model's deviation, norms one. They depend on
    /// `seed` and the model alone. They are drawn by as many threads as the device computes with, or by all
    /// where the host does not compute.
    pub fn initial(model: &ModelSpec, device: &Device, kind: Kind, seed: u64) -> Result<Bundle> {
        let bundle = Bundle::empty(model, device, kind)?;
        for (spec, tensor) in bundle.specs.iter().zip(&bundle.tensors) {
            if spec.role == Role::Norm {
                ops::fill(tensor, 1.0)?;
            }
        }
        initial::draw(&bundle, model.initial_deviation, seed)?;
        Ok(bundle)
    }

    /// Sets every number to zero.
    pub fn clear(&self) -> Result<()> {
        ops::fill(&self.flat, 0.0)
    }

    /// Returns the tensor called `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let index = self.specs.iter().position(|spec| spec.name == name)?;
        self.tensors.get(index)
    }
}

/// The number of elements of a tensor.
pub(crate) fn numbers(spec: &TensorSpec) -> usize {
    spec.shape.iter().product()
}
