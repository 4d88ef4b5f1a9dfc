//! Sums over a whole tensor, added to what is there already.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::Cost;

op! {
    /// `out[0] += sum of x^2`.
    SumOfSquares = "sum_of_squares" {
        x = "x": read,
        out_1 = "out": update,
    }
}

op! {
    /// `out[0] += sum of x`, `out[1] += sum of x^2`.
    Moments = "moments" {
        x = "x": read,
        out_2 = "out": update,
    }
}

impl SumOfSquares<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(self.x.len())
    }
}

impl Moments<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(self.x.len())
    }
}

/// `out[0] += sum of x^2`.
pub fn sum_of_squares(x: &Tensor, out_1: &Tensor) -> Result<()> {
    let door = Door::new("sum_of_squares", x)?;
    door.floats("out", out_1, &[1])?;
    x.device().enqueue(SumOfSquares { x, out_1 })
}

/// `out[0] += sum of x`, `out[1] += sum of x^2`.
pub fn moments(x: &Tensor, out_2: &Tensor) -> Result<()> {
    let door = Door::new("moments", x)?;
    door.floats("out", out_2, &[2])?;
    x.device().enqueue(Moments { x, out_2 })
}
