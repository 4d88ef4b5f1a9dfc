//! Element by element: add, copy, fill.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};

op! {
    /// `out += x`.
    Add = "add" { read x, update out }
    cost |op| moved(3 * op.out.len(), op.out)
}

op! {
    /// `out = x`, converted between kinds of floats where they differ: to the nearest, ties to even.
    Copy = "copy" { read x: any, write out: any }
    cost |op| moved(op.x.len(), op.x) + moved(op.out.len(), op.out)
}

op! {
    /// Every element becomes `value`.
    Fill = "fill" { write out: any }
    {
        /// The value, truncated where elements are whole numbers.
        value: f64,
    }
    cost |op| moved(op.out.len(), op.out)
}

/// Adds `x` to `out`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.floats(&[1.0, 2.0], &[2], Kind::F32)?;
/// ops::add(&out, &device.floats(&[10.0, 20.0], &[2], Kind::F32)?)?;
/// assert_eq!(out.to_floats()?, [11.0, 22.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn add(out: &Tensor, x: &Tensor) -> Result<()> {
    let door = Door::new("add", out)?;
    door.operand("x", x, out.shape())?;
    out.device().enqueue(Add { x, out })
}

/// Overwrites `out` with `x`; floats may differ in kind.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.zeros(&[2], Kind::F32)?;
/// ops::copy(&out, &device.floats(&[1.0, 2.0], &[2], Kind::F32)?)?;
/// assert_eq!(out.to_floats()?, [1.0, 2.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
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

/// Sets every element to `value`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.empty(&[2], Kind::I32)?;
/// ops::fill(&out, 3.0)?;
/// assert_eq!(out.to_integers()?, [3, 3]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn fill(out: &Tensor, value: f64) -> Result<()> {
    out.device().enqueue(Fill { out, value })
}
