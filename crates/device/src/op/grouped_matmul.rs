//! One matrix product per expert, over rows that are sorted by expert.

use super::describe::{op, widths};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::cost;

op! {
    /// Rows sorted by expert, each times its expert's matrix. Expert e owns rows `ends[e-1]..ends[e]`.
    /// Forward: `out[r] = W_e x[r]`, x `[R,K]` to out `[R,N]`.
    /// With `flip`: `out[r] = x[r] W_e`, x `[R,N]` to out `[R,K]`.
    GroupedMatMul = "grouped_matmul" { read x, read w_enk, read ends_e: ids, write out }
    {
        /// Whether rows are multiplied by the transposed matrices.
        flip: bool,
    }
    cost |op| cost::grouped_matmul(op.x.shape()[0], op.w_enk.dims(), widths(op.x))
}

op! {
    /// Gradient of [`GroupedMatMul`] by its weights: `dW_e = sum of dy[r] x[r]^T over its rows`, zeros for an
    /// expert without rows; `add` accumulates.
    GroupedMatMulWeights = "grouped_matmul_weights" {
        read dy_rn, read x_rk, read ends_e: ids, update_if(add) dw_enk: sums,
    }
    {
        /// Whether the gradient is added to `dw`.
        add: bool,
    }
    cost |op| {
        cost::grouped_matmul_weights(op.dy_rn.shape()[0], op.dw_enk.dims(), widths(op.dy_rn), op.add)
    }
}

/// Returns each row times its expert's matrix: `W_e x[r]`, or `x[r] W_e` with `flip`. Expert e owns the rows
/// up to `ends[e]`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, 1.0], &[2, 1], Kind::F32)?;
/// let w = device.floats(&[10.0, 20.0], &[2, 1, 1], Kind::F32)?;
/// let out = ops::grouped_matmul(&x, &w, &device.integers(&[1, 2], &[2])?, false)?;
/// assert_eq!(out.to_floats()?, [10.0, 20.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn grouped_matmul(x: &Tensor, w_enk: &Tensor, ends_e: &Tensor, flip: bool) -> Result<Tensor> {
    let door = Door::new("grouped_matmul", x)?;
    let [e, n, k] = door.dims("w", w_enk)?;
    let [rows, _] = door.dims("x", x)?;
    door.operand("w", w_enk, &[e, n, k])?;
    door.operand("x", x, &[rows, if flip { n } else { k }])?;
    door.operand("ends", ends_e, &[e])?;
    let out = door.empty(&[rows, if flip { k } else { n }])?;
    x.device().enqueue(GroupedMatMul { x, w_enk, ends_e, out: &out, flip })?;
    Ok(out)
}

/// Writes the gradient by the weights to `dw`: `dW_e = sum of dy[r] x[r]^T` over the rows of expert e; with
/// `add` it is added to what is there.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let dy = device.floats(&[2.0, 3.0], &[2, 1], Kind::F32)?;
/// let x = device.floats(&[1.0, 10.0], &[2, 1], Kind::F32)?;
/// let dw = device.zeros(&[2, 1, 1], Kind::F32)?;
/// ops::grouped_matmul_weights(&dy, &x, &device.integers(&[1, 2], &[2])?, &dw, true)?;
/// assert_eq!(dw.to_floats()?, [2.0, 30.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn grouped_matmul_weights(
    dy_rn: &Tensor,
    x_rk: &Tensor,
    ends_e: &Tensor,
    dw_enk: &Tensor,
    add: bool,
) -> Result<()> {
    let door = Door::new("grouped_matmul_weights", dy_rn)?;
    let [e, n, k] = door.dims("dw", dw_enk)?;
    let [rows, _] = door.dims("dy", dy_rn)?;
    door.operand("dy", dy_rn, &[rows, n])?;
    door.operand("x", x_rk, &[rows, k])?;
    door.operand("dw", dw_enk, &[e, n, k])?;
    door.operand("ends", ends_e, &[e])?;
    dy_rn.device().enqueue(GroupedMatMulWeights { dy_rn, x_rk, ends_e, dw_enk, add })
}
