//! One matrix product per expert, over rows that are sorted by expert.

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// Each row times its expert's matrix, `W_e x[r]`, or `x[r] W_e` with `flip`. Expert e owns the rows up to `ends[e]`.
pub fn grouped_matmul(x: &Tensor, w_enk: &Tensor, ends_e: &Tensor, flip: bool) -> Result<Tensor> {
    let door = Door::new("grouped_matmul", x)?;
    let [e, n, k] = door.dims("w", w_enk)?;
    let [rows, _] = door.dims("x", x)?;
    door.floats("w", w_enk, &[e, n, k])?;
    door.floats("x", x, &[rows, if flip { n } else { k }])?;
    door.integers("ends", ends_e, &[e])?;
    let out = door.empty(&[rows, if flip { k } else { n }])?;
    x.device().run(Op::GroupedMatMul { x, w_enk, ends_e, out: &out, flip })?;
    Ok(out)
}

/// Adds the gradient by the weights: `dW_e += sum of dy[r] x[r]^T` over the rows of expert e.
pub fn grouped_matmul_weights(dy_rn: &Tensor, x_rk: &Tensor, ends_e: &Tensor, dw_enk: &Tensor) -> Result<()> {
    let door = Door::new("grouped_matmul_weights", dy_rn)?;
    let [e, n, k] = door.dims("dw", dw_enk)?;
    let [rows, _] = door.dims("dy", dy_rn)?;
    door.floats("dy", dy_rn, &[rows, n])?;
    door.floats("x", x_rk, &[rows, k])?;
    door.floats("dw", dw_enk, &[e, n, k])?;
    door.integers("ends", ends_e, &[e])?;
    door.apart("dw", dw_enk, &[dy_rn, x_rk])?;
    dy_rn.device().run(Op::GroupedMatMulWeights { dy_rn, x_rk, ends_e, dw_enk })
}
