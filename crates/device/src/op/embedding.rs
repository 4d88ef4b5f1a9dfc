//! Rows of a table, looked up by token. A token outside of the table is a broken invariant of the loader.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// `out[t] = table[tokens[t]]`.
    Embedding = "embedding" { read table_vd, read tokens_t: ids, write out_td }
    cost |op| moved(2 * op.out_td.len(), op.out_td)
}

op! {
    /// Gradient of [`Embedding`], in order of t. Adds.
    EmbeddingGrad = "embedding_grad" { read d_out_td, read tokens_t: ids, update d_table_vd: sums }
    cost |op| moved(op.d_out_td.len(), op.d_out_td) + moved(2 * op.d_out_td.len(), op.d_table_vd)
}

/// Returns `table[tokens[t]]`, `[T, D]`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let table = device.floats(&[1.0, 2.0, 3.0, 4.0], &[2, 2], Kind::F32)?;
/// let rows = ops::embedding(&table, &device.integers(&[1, 0], &[2])?)?;
/// assert_eq!(rows.to_floats()?, [3.0, 4.0, 1.0, 2.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn embedding(table_vd: &Tensor, tokens_t: &Tensor) -> Result<Tensor> {
    let door = Door::new("embedding", table_vd)?;
    let [_, d] = door.dims("table", table_vd)?;
    let [t] = door.dims("tokens", tokens_t)?;
    door.operand("tokens", tokens_t, &[t])?;
    let out_td = door.empty(&[t, d])?;
    table_vd.device().enqueue(Embedding { table_vd, tokens_t, out_td: &out_td })?;
    Ok(out_td)
}

/// Adds each row of `d_out` to its token's row of `d_table`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let d_table = device.zeros(&[2, 1], Kind::F32)?;
/// let d_out = device.floats(&[1.0, 2.0, 3.0], &[3, 1], Kind::F32)?;
/// ops::embedding_grad(&d_out, &device.integers(&[1, 0, 1], &[3])?, &d_table)?;
/// assert_eq!(d_table.to_floats()?, [2.0, 4.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn embedding_grad(d_out_td: &Tensor, tokens_t: &Tensor, d_table_vd: &Tensor) -> Result<()> {
    let door = Door::new("embedding_grad", d_out_td)?;
    let [t, d] = door.dims("d_out", d_out_td)?;
    let [v, _] = door.dims("d_table", d_table_vd)?;
    door.operand("tokens", tokens_t, &[t])?;
    door.operand("d_table", d_table_vd, &[v, d])?;
    d_out_td.device().enqueue(EmbeddingGrad { d_out_td, tokens_t, d_table_vd })
}
