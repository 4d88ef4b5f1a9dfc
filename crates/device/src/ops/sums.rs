//! Sums over a whole tensor, added to what is there already.

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// `out[0] += sum of x^2`.
pub fn sum_of_squares(x: &Tensor, out_1: &Tensor) -> Result<()> {
    let door = Door::new("sum_of_squares", x)?;
    door.floats("out", out_1, &[1])?;
    door.apart("out", out_1, &[x])?;
    x.device().run(Op::SumOfSquares { x, out_1 })
}

/// `out[0] += sum of x`, `out[1] += sum of x^2`.
pub fn moments(x: &Tensor, out_2: &Tensor) -> Result<()> {
    let door = Door::new("moments", x)?;
    door.floats("out", out_2, &[2])?;
    door.apart("out", out_2, &[x])?;
    x.device().run(Op::Moments { x, out_2 })
}
