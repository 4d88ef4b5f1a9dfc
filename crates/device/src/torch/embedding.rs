//! Rows of a table, looked up by token.

use super::Torch;
use super::value::Words;
use crate::tensor::Tensor;

pub(super) fn embedding(
    torch: &Torch,
    table_vd: &Tensor,
    tokens_t: &Tensor,
    out_td: &Tensor,
) -> Result<(), Words> {
    let tokens = torch.indices(tokens_t, &[tokens_t.len() as i64])?;
    torch.aten().index_select_out(&torch.floats(table_vd)?, 0, &tokens, &torch.floats(out_td)?)?;
    Ok(())
}

/// Through a table of sums, because torch adds single rows in any order.
pub(super) fn grad(
    torch: &Torch,
    d_out_td: &Tensor,
    tokens_t: &Tensor,
    d_table_vd: &Tensor,
) -> Result<(), Words> {
    let tokens = torch.indices(tokens_t, &[tokens_t.len() as i64])?;
    let rows = d_table_vd.shape()[0] as i64;
    let sums = torch.aten().embedding_dense_backward(&torch.floats(d_out_td)?, &tokens, rows, -1, false)?;
    torch.accumulate(&torch.floats(d_table_vd)?, &sums)
}
