//! Named tensors in a fixed order, one after the other in one piece of memory.

use crate::random::Stream;
use lingot_device::{Device, Kind, Result, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::tensors::{Role, TensorSpec, tensors};

/// Parameters, gradients, or moments: what has one number for each number of the model.
pub struct Bundle {
    pub specs: Vec<TensorSpec>,
    pub tensors: Vec<Tensor>,
    /// All of them as one flat tensor.
    pub flat: Tensor,
}

impl Bundle {
    /// All zero, laid out for `model`.
    pub fn zeros(model: &ModelSpec, device: &Device, kind: Kind) -> Result<Bundle> {
        let specs = tensors(model);
        let count = specs.iter().map(numbers).sum();
        let flat = device.zeros(&[count], kind)?;
        let mut from = 0;
        let mut views = Vec::with_capacity(specs.len());
        for spec in &specs {
            views.push(flat.rows(from, numbers(spec)).reshape(&spec.shape));
            from += numbers(spec);
        }
        Ok(Bundle { specs, tensors: views, flat })
    }

    /// Initial parameters: matrices normal with the model's deviation, norms one.
    pub fn initial(model: &ModelSpec, device: &Device, kind: Kind, seed: u64) -> Result<Bundle> {
        let bundle = Bundle::zeros(model, device, kind)?;
        for (index, (spec, tensor)) in bundle.specs.iter().zip(&bundle.tensors).enumerate() {
            match spec.role {
                Role::Norm => ops::fill(tensor, 1.0)?,
                Role::Matrix => {
                    let mut stream = Stream::new(&[seed, PURPOSE_INITIAL, index as u64]);
                    tensor.write_floats(&stream.normal_values(tensor.len(), model.initial_deviation))?;
                }
            }
        }
        Ok(bundle)
    }

    /// Every number becomes zero.
    pub fn clear(&self) -> Result<()> {
        ops::fill(&self.flat, 0.0)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let index = self.specs.iter().position(|spec| spec.name == name)?;
        self.tensors.get(index)
    }
}

/// Sets the stream of initial values apart from others with the same seed.
const PURPOSE_INITIAL: u64 = 1;

fn numbers(spec: &TensorSpec) -> usize {
    spec.shape.iter().product()
}
