//! Element by element: add, copy, fill.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};
use lingot_spec::Cost;

op! {
    /// `out += x`.
    Add = "add" {
        x = "x": read,
        out = "out": update,
    }
}

op! {
    /// `out = x`, converted between kinds of floats where they differ.
    Copy = "copy" {
        x = "x": read,
        out = "out": write,
    }
}

op! {
    /// Every element becomes `value`.
    Fill = "fill" {
        out = "out": write,
    }
    {
        /// The value, truncated where elements are whole numbers.
        value: f64,
    }
}

impl Add<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(3 * self.out.len())
    }
}

impl Copy<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(2 * self.out.len())
    }
}

impl Fill<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(self.out.len())
    }
}

/// `out += x`.
pub fn add(out: &Tensor, x: &Tensor) -> Result<()> {
    let door = Door::new("add", out)?;
    door.floats("x", x, out.shape())?;
    out.device().enqueue(Add { x, out })
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
    out.device().enqueue(Copy { x, out })
}

/// Every element becomes `value`.
pub fn fill(out: &Tensor, value: f64) -> Result<()> {
    out.device().enqueue(Fill { out, value })
}
