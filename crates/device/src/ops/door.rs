//! What all front doors check: shapes, kinds, one device, and that nothing written overlaps anything else.

use crate::error::{Error, Result};
use crate::tensor::{Device, Kind, Tensor};

/// The checks of one call of one op. The kind of the floats is the first float operand's.
pub(super) struct Door<'a> {
    op: &'static str,
    device: &'a Device,
    kind: Kind,
}

impl<'a> Door<'a> {
    /// `lead` settles the device and the kind of floats.
    pub(super) fn new(op: &'static str, lead: &'a Tensor) -> Result<Door<'a>> {
        let door = Door { op, device: lead.device(), kind: lead.kind() };
        if lead.kind() == Kind::I32 {
            return Err(Error::Kind { op, tensor: "the first operand", found: "i32", wanted: "f32 or f64" });
        }
        Ok(door)
    }

    /// A float operand of that shape.
    pub(super) fn floats(&self, name: &'static str, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        self.operand(name, tensor, shape, self.kind)
    }

    /// An operand of whole numbers of that shape.
    pub(super) fn integers(&self, name: &'static str, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        self.operand(name, tensor, shape, Kind::I32)
    }

    fn operand(&self, name: &'static str, tensor: &Tensor, shape: &[usize], kind: Kind) -> Result<()> {
        if tensor.shape() != shape {
            return Err(Error::Shape {
                op: self.op,
                tensor: name,
                found: tensor.shape().to_vec(),
                wanted: shape.to_vec(),
            });
        }
        if tensor.kind() != kind {
            return Err(Error::Kind {
                op: self.op,
                tensor: name,
                found: tensor.kind().name(),
                wanted: kind.name(),
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

    /// The dimensions of an operand that must have `N` of them.
    pub(super) fn dims<const N: usize>(&self, name: &'static str, tensor: &Tensor) -> Result<[usize; N]> {
        tensor.shape().try_into().map_err(|_| Error::Value {
            op: self.op,
            what: name,
            found: format!("of shape {:?}", tensor.shape()),
            wanted: format!("of {N} dimensions"),
        })
    }

    /// A condition on numbers rather than tensors.
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

    /// `out` is written: it may share memory with none of `others`.
    pub(super) fn apart(&self, name: &'static str, out: &Tensor, others: &[&Tensor]) -> Result<()> {
        if others.iter().any(|other| out.overlaps(other)) {
            return Err(Error::Overlap { op: self.op, tensor: name });
        }
        Ok(())
    }

    pub(super) fn empty(&self, shape: &[usize]) -> Result<Tensor> {
        self.device.empty(shape, self.kind)
    }

    pub(super) fn empty_integers(&self, shape: &[usize]) -> Result<Tensor> {
        self.device.empty(shape, Kind::I32)
    }
}
