//! Each token's row to each expert it visits.

use super::Torch;
use super::value::{Value, Words};
use crate::tensor::Tensor;

pub(super) fn dispatch(
    torch: &Torch,
    x_td: &Tensor,
    order_r: &Tensor,
    choices: usize,
    out_rd: &Tensor,
) -> Result<(), Words> {
    let aten = torch.aten();
    let order = torch.indices(order_r, &[order_r.len() as i64])?;
    let tokens = aten.floor_divide(&order, &Value::i64(torch.torch, choices as i64)?)?;
    aten.index_select_out(&torch.floats(x_td)?, 0, &tokens, &torch.floats(out_rd)?)?;
    Ok(())
}
