//! The selection bias's step towards equal loads, with zero mean (Ling 2.0; loss-free balancing, arXiv
//! 2408.15664).

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// The selection bias's step, in place: `b += rate (sign(e) - mean(sign(e)))`, `e = mean(loads) - load`.
    BalanceBias = "balance_bias" { read loads_e: ids, update bias_e: sums }
    {
        /// The largest change of a bias, about.
        rate: f64,
    }
    cost |op| moved(3 * op.bias_e.len(), op.bias_e)
}

/// Takes the bias's step in place: `b += rate (sign(e) - mean(sign(e)))` with `e = mean(loads) - load`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let bias = device.zeros(&[4], Kind::F32)?;
/// ops::balance_bias(&bias, &device.integers(&[0, 4, 10, 2], &[4])?, 1.0)?;
/// assert_eq!(bias.to_floats()?, [0.75, -0.25, -1.25, 0.75]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn balance_bias(bias_e: &Tensor, loads_e: &Tensor, rate: f64) -> Result<()> {
    let door = Door::new("balance_bias", bias_e)?;
    let [e] = door.dims("bias", bias_e)?;
    door.operand("loads", loads_e, &[e])?;
    bias_e.device().enqueue(BalanceBias { loads_e, bias_e, rate })
}
