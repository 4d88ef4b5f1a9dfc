//! What all front doors check: shapes, and that all tensors are of one device.
//!
//! That operands are of the kinds that the op declares, and that no output overlaps another operand is
//! checked for all ops in one place, when an op is enqueued.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

/// The checks of one call of one op, and the tensors that it makes.
pub(super) struct Door<'a> {
    op: &'static str,
    device: &'a Device,
    kind: Kind,
}

impl<'a> Door<'a> {
    /// The checks of a call in which `first`, a float operand, decides on the device and the kind of values;
    /// where the op has no values, on that of sums.
    pub(super) fn new(op: &'static str, first: &'a Tensor) -> Result<Door<'a>> {
        let door = Door { op, device: first.device(), kind: first.kind() };
        if first.kind() == Kind::I32 {
            return Err(Error::Kind {
                op,
                tensor: "the first operand",
                found: "i32",
                wanted: "bf16, f32 or f64",
            });
        }
        Ok(door)
    }

    /// Errors unless the operand is of that shape, and of the op's device.
    pub(super) fn operand(&self, name: &'static str, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        if tensor.shape() != shape {
            return Err(Error::Shape {
                op: self.op,
                tensor: name,
                found: tensor.shape().to_vec(),
                wanted: shape.to_vec(),
            });
        }
        if !tensor.device().is(self.device) {
            return Err(Error::Elsewhere {
                op: self.op,
                tensor: name,
                found: tensor.device().info().name.clone(),
                wanted: self.device.info().name.clone(),
            });
        }
        Ok(())
    }

    /// Returns the dimensions of an operand. Errors unless there are `N`.
    pub(super) fn dims<const N: usize>(&self, name: &'static str, tensor: &Tensor) -> Result<[usize; N]> {
        tensor.shape().try_into().map_err(|_| Error::Value {
            op: self.op,
            what: name,
            found: format!("of shape {:?}", tensor.shape()),
            wanted: format!("of {N} dimensions"),
        })
    }

    /// Errors unless a condition on a number holds.
    pub(super) fn require(
        &self,
        holds: bool,
        what: &'static str,
        found: impl ToString,
        wanted: impl ToString,
    ) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::Value { op: self.op, what, found: found.to_string(), wanted: wanted.to_string() })
    }

    /// A new tensor of values.
    pub(super) fn empty(&self, shape: &[usize]) -> Result<Tensor> {
        self.device.empty(shape, self.kind)
    }

    /// A new tensor of sums.
    pub(super) fn empty_sums(&self, shape: &[usize]) -> Result<Tensor> {
        self.device.empty(shape, self.kind.sums())
    }

    /// A new tensor of whole numbers.
    pub(super) fn empty_integers(&self, shape: &[usize]) -> Result<Tensor> {
        self.device.empty(shape, Kind::I32)
    }
}
