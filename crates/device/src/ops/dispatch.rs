//! Send each token's row to the experts it visits. Backward partner: `combine`.

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// `x[order[r] / choices]` for each sorted row r.
pub fn dispatch(x_td: &Tensor, order_r: &Tensor, choices: usize) -> Result<Tensor> {
    let door = Door::new("dispatch", x_td)?;
    let [t, d] = door.dims("x", x_td)?;
    door.require(choices > 0, "the number of choices", choices, "positive")?;
    door.integers("order", order_r, &[t * choices])?;
    let out_rd = door.empty(&[t * choices, d])?;
    x_td.device().run(Op::Dispatch { x_td, order_r, choices, out_rd: &out_rd })?;
    Ok(out_rd)
}
