//! Copies each token's row to the experts that it visits. Its gradient is `combine`.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// `out[r] = x[order[r] / choices]`. Its gradient is [`Combine`](crate::op::Combine).
    Dispatch = "dispatch" { read x_td, read order_r: ids, write out_rd }
    {
        /// Experts per token.
        choices: usize,
    }
    cost |op| moved(2 * op.out_rd.len(), op.out_rd)
}

/// Returns `x[order[r] / choices]` for each sorted row r, `[R, D]`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, 2.0], &[2, 1], Kind::F32)?;
/// let order = device.integers(&[2, 0, 3, 1], &[4])?;
/// assert_eq!(ops::dispatch(&x, &order, 2)?.to_floats()?, [2.0, 1.0, 2.0, 1.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn dispatch(x_td: &Tensor, order_r: &Tensor, choices: usize) -> Result<Tensor> {
    let door = Door::new("dispatch", x_td)?;
    let [t, d] = door.dims("x", x_td)?;
    door.require(choices > 0, "the number of choices", choices, "positive")?;
    door.operand("order", order_r, &[t * choices])?;
    let out_rd = door.empty(&[t * choices, d])?;
    x_td.device().enqueue(Dispatch { x_td, order_r, choices, out_rd: &out_rd })?;
    Ok(out_rd)
}
