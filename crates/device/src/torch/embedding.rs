//! Rows of a table, looked up by token.

use super::Torch;
use super::refusal::Refusal;
use crate::op::{Embedding, EmbeddingGrad};

pub(super) fn embedding(torch: &Torch, op: &Embedding<'_>) -> Result<(), Refusal> {
    let Embedding { table_vd, tokens_t, out_td } = *op;
    let tokens = torch.indices(tokens_t, &[tokens_t.len() as i64])?;
    torch.aten().index_select_out(&torch.moved(table_vd)?, 0, &tokens, &torch.moved(out_td)?)?;
    Ok(())
}

/// Through a table of sums, because torch adds single rows in any order.
pub(super) fn grad(torch: &Torch, op: &EmbeddingGrad<'_>) -> Result<(), Refusal> {
    let EmbeddingGrad { d_out_td, tokens_t, d_table_vd } = *op;
    let tokens = torch.indices(tokens_t, &[tokens_t.len() as i64])?;
    let rows = d_table_vd.shape()[0] as i64;
    let sums = torch.aten().embedding_dense_backward(&torch.floats(d_out_td)?, &tokens, rows, -1, false)?;
    torch.accumulate(&torch.floats(d_table_vd)?, &sums)
}
