//! Each token's row to each expert it visits.

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;
use crate::op::Dispatch;

pub(super) fn dispatch(torch: &Torch, op: &Dispatch<'_>) -> Result<(), Refusal> {
    let Dispatch { x_td, order_r, out_rd, choices } = *op;
    let aten = torch.aten();
    let order = torch.indices(order_r, &[order_r.len() as i64])?;
    let tokens = aten.floor_divide(&order, &Value::i64(torch.torch, choices as i64)?)?;
    aten.index_select_out(&torch.moved(x_td)?, 0, &tokens, &torch.moved(out_rd)?)?;
    Ok(())
}
