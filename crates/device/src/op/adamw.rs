//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) with the global norm's clipping folded in.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// One AdamW step in place. The gradient is first scaled by `min(1, clip / (sqrt(squares) + 1e-6))`.
    AdamW = "adamw" { update parameter, read gradient, update first, update second, read squares_1 }
    {
        /// The step's numbers.
        rule: AdamRule,
    }
    cost |op| moved(7 * op.parameter.len())
}

/// The numbers of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamRule {
    /// The learning rate.
    pub rate: f64,
    /// The first moment's decay.
    pub beta1: f64,
    /// The second moment's decay.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay: the parameter is first multiplied by `1 - rate * decay`.
    pub decay: f64,
    /// Steps done, this one included; from 1.
    pub step: u64,
    /// The largest norm of all gradients; 0 for no clipping.
    pub clip: f64,
}

/// Takes one AdamW step in place. `squares` holds the sum of squares of all gradients, so that the norm never
/// leaves the device.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, op::AdamRule, ops};
/// let device = Device::new(Cpu::new(1));
/// let parameter = device.floats(&[1.0], &[1], Kind::F32)?;
/// let gradient = device.floats(&[0.5], &[1], Kind::F32)?;
/// let [first, second, squares] = [0; 3].map(|_| device.zeros(&[1], Kind::F32));
/// let rule = AdamRule { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0.0, decay: 0.0, step: 1, clip: 0.0 };
/// ops::adamw(&parameter, &gradient, [&first?, &second?], &squares?, rule)?;
/// assert!((parameter.to_floats()?[0] - 0.9).abs() < 1e-6, "the first step moves by the rate");
/// # Ok::<(), lingot_device::Error>(())
/// ```
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
    parameter.device().enqueue(AdamW { parameter, gradient, first, second, squares_1, rule })
}
