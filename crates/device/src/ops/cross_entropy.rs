//! The head and its loss in one, in chunks, so that the logits of a batch never exist.

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// Each token's loss under the head `w`; 0 where the target is -1.
pub fn cross_entropy(x_td: &Tensor, w_vd: &Tensor, targets_t: &Tensor) -> Result<Tensor> {
    let door = Door::new("cross_entropy", x_td)?;
    let [t, _] = check(&door, x_td, w_vd, targets_t)?;
    let losses_t = door.empty(&[t])?;
    x_td.device().run(Op::CrossEntropy { x_td, w_vd, targets_t, losses_t: &losses_t })?;
    Ok(losses_t)
}

/// Each token's loss, and the gradient of `scale` x their sum by x; adds the gradient by the head into `d_w`.
pub fn cross_entropy_grad(
    x_td: &Tensor,
    w_vd: &Tensor,
    targets_t: &Tensor,
    scale: f64,
    d_w_vd: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let door = Door::new("cross_entropy_grad", x_td)?;
    let [t, d] = check(&door, x_td, w_vd, targets_t)?;
    door.floats("d_w", d_w_vd, w_vd.shape())?;
    door.apart("d_w", d_w_vd, &[x_td, w_vd])?;
    let losses_t = door.empty(&[t])?;
    let d_x_td = door.empty(&[t, d])?;
    x_td.device().run(Op::CrossEntropyGrad {
        x_td,
        w_vd,
        targets_t,
        scale,
        losses_t: &losses_t,
        d_x_td: &d_x_td,
        d_w_vd,
    })?;
    Ok((losses_t, d_x_td))
}

fn check(door: &Door<'_>, x_td: &Tensor, w_vd: &Tensor, targets_t: &Tensor) -> Result<[usize; 2]> {
    let [t, d] = door.dims("x", x_td)?;
    let [v, _] = door.dims("w", w_vd)?;
    door.floats("w", w_vd, &[v, d])?;
    door.integers("targets", targets_t, &[t])?;
    Ok([t, d])
}
