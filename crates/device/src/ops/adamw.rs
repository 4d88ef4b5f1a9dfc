//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) with the global norm's clipping folded in.

use super::door::Door;
use crate::error::Result;
use crate::op::{AdamRule, Op};
use crate::tensor::Tensor;

/// One step in place. `squares` holds the sum of squares of all gradients, so the norm never leaves the device.
pub fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    squares_1: &Tensor,
    rule: AdamRule,
) -> Result<()> {
    let door = Door::new("adamw", parameter)?;
    let shape = parameter.shape();
    door.floats("gradient", gradient, shape)?;
    door.floats("first", first, shape)?;
    door.floats("second", second, shape)?;
    door.floats("squares", squares_1, &[1])?;
    door.require(rule.step >= 1, "the step", rule.step, "at least 1")?;
    door.apart("parameter", parameter, &[gradient, first, second, squares_1])?;
    door.apart("first", first, &[gradient, second, squares_1])?;
    door.apart("second", second, &[gradient, squares_1])?;
    parameter.device().run(Op::AdamW { parameter, gradient, first, second, squares_1, rule })
}
