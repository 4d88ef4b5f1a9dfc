//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) with the global norm's clipping folded in.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::Cost;

op! {
    /// One AdamW step in place. The gradient is first scaled by `min(1, clip / (sqrt(squares) + 1e-6))`. The
    /// parameter as it is held afterwards is also copied to `working` where given, which may round it.
    AdamW = "adamw" {
        update parameter: sums, read gradient: sums, update first: sums, update second: sums,
        read squares_1: sums, write_if_given working: values_or_sums,
    }
    {
        /// The step's numbers.
        rule: AdamRule,
    }
    cost |op| {
        let copied = op.working.map_or(Cost::default(), |working| moved(working.len(), working));
        moved(7 * op.parameter.len(), op.parameter) + copied
    }
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

/// Takes one AdamW step in place, and writes the new parameter to the working copy `working` as well, rounded
/// to its kind. `squares` holds the sum of squares of all gradients, so that the norm never leaves the
/// device.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, op::AdamRule, ops};
/// let device = Device::new(Cpu::new(1));
/// let parameter = device.floats(&[1.0], &[1], Kind::F32)?;
/// let gradient = device.floats(&[0.5], &[1], Kind::F32)?;
/// let [first, second, squares] = [0; 3].map(|_| device.zeros(&[1], Kind::F32));
/// let rule = AdamRule { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0.0, decay: 0.0, step: 1, clip: 0.0 };
/// ops::adamw(&parameter, &gradient, [&first?, &second?], &squares?, rule, None)?;
/// assert!((parameter.to_floats()?[0] - 0.9).abs() < 1e-6, "the first step moves by the rate");
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    squares_1: &Tensor,
    rule: AdamRule,
    working: Option<&Tensor>,
) -> Result<()> {
    let door = Door::new("adamw", parameter)?;
    let shape = parameter.shape();
    door.operand("gradient", gradient, shape)?;
    door.operand("first", first, shape)?;
    door.operand("second", second, shape)?;
    door.operand("squares", squares_1, &[1])?;
    if let Some(working) = working {
        door.operand("working", working, shape)?;
    }
    door.require(rule.step >= 1, "the step", rule.step, "at least 1")?;
    parameter.device().enqueue(AdamW { parameter, gradient, first, second, squares_1, rule, working })
}
