//! Sums over a whole tensor, added to what is there already.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// `out[0] += sum of x^2`.
    SumOfSquares = "sum_of_squares" { read x, update out_1: sums }
    cost |op| moved(op.x.len(), op.x)
}

op! {
    /// `out[0] += sum of x`, `out[1] += sum of x^2`.
    Moments = "moments" { read x, update out_2: sums }
    cost |op| moved(op.x.len(), op.x)
}

/// Adds the sum of x^2 to `out[0]`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.zeros(&[1], Kind::F32)?;
/// ops::sum_of_squares(&device.floats(&[3.0, 4.0], &[2], Kind::F32)?, &out)?;
/// assert_eq!(out.to_floats()?, [25.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn sum_of_squares(x: &Tensor, out_1: &Tensor) -> Result<()> {
    let door = Door::new("sum_of_squares", x)?;
    door.operand("out", out_1, &[1])?;
    x.device().enqueue(SumOfSquares { x, out_1 })
}

/// Adds the sum of x to `out[0]`, and the sum of x^2 to `out[1]`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.zeros(&[2], Kind::F32)?;
/// ops::moments(&device.floats(&[3.0, 4.0], &[2], Kind::F32)?, &out)?;
/// assert_eq!(out.to_floats()?, [7.0, 25.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn moments(x: &Tensor, out_2: &Tensor) -> Result<()> {
    let door = Door::new("moments", x)?;
    door.operand("out", out_2, &[2])?;
    x.device().enqueue(Moments { x, out_2 })
}
