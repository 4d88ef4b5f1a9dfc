//! Element by element: add, copy, fill.

use super::door::Door;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::tensor::{Kind, Tensor};

/// `out += x`.
pub fn add(out: &Tensor, x: &Tensor) -> Result<()> {
    let door = Door::new("add", out)?;
    door.floats("x", x, out.shape())?;
    door.apart("out", out, &[x])?;
    out.device().run(Op::Add { x, out })
}

/// `out = x`; floats may differ in kind.
pub fn copy(out: &Tensor, x: &Tensor) -> Result<()> {
    let op = "copy";
    if out.shape() != x.shape() {
        return Err(Error::Shape {
            op,
            tensor: "x",
            found: x.shape().to_vec(),
            wanted: out.shape().to_vec(),
        });
    }
    if (out.kind() == Kind::I32) != (x.kind() == Kind::I32) {
        return Err(Error::Kind { op, tensor: "x", found: x.kind().name(), wanted: out.kind().name() });
    }
    if !out.device().is(x.device()) {
        let [found, wanted] = [x, out].map(|tensor| tensor.device().info().name.clone());
        return Err(Error::Elsewhere { op, tensor: "x", found, wanted });
    }
    if out.overlaps(x) {
        return Err(Error::Overlap { op, tensor: "out" });
    }
    out.device().run(Op::Copy { x, out })
}

/// Every element becomes `value`.
pub fn fill(out: &Tensor, value: f64) -> Result<()> {
    out.device().run(Op::Fill { out, value })
}
