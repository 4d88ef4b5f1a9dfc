//! The head and its loss in one, in chunks, so that the logits of a batch never exist.

use super::describe::{op, widths};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::cost;

op! {
    /// `losses[t] = logsumexp(w x[t]) - (w x[t])[target]`, 0 where the target is -1. No T x V logits exist.
    CrossEntropy = "cross_entropy" {
        read x_td, read w_vd, read targets_t: ids, write losses_t: sums,
    }
    cost |op| {
        let ([t, d], [v, _]) = (op.x_td.dims(), op.w_vd.dims());
        cost::cross_entropy([t, v, d], widths(op.x_td))
    }
}

op! {
    /// [`CrossEntropy`] and the gradient of `scale` x the sum of its losses in one go; `add` accumulates
    /// into `d_w`.
    CrossEntropyGrad = "cross_entropy_grad" {
        read x_td, read w_vd, read targets_t: ids, write losses_t: sums, write d_x_td,
        update_if(add) d_w_vd: sums,
    }
    {
        /// What the sum of losses is multiplied by.
        scale: f64,
        /// Whether the gradient by the head is added to `d_w`.
        add: bool,
    }
    cost |op| {
        let ([t, d], [v, _]) = (op.x_td.dims(), op.w_vd.dims());
        cost::cross_entropy_grad([t, v, d], widths(op.x_td), op.add)
    }
}

/// Returns each token's loss under the head `w`, `[T]`; 0 where the target is -1.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let (x, w) = (device.zeros(&[2, 1], Kind::F32)?, device.zeros(&[2, 1], Kind::F32)?);
/// let losses = ops::cross_entropy(&x, &w, &device.integers(&[0, -1], &[2])?)?.to_floats()?;
/// assert!((losses[0] - 2.0_f32.ln()).abs() < 1e-6 && losses[1] == 0.0);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn cross_entropy(x_td: &Tensor, w_vd: &Tensor, targets_t: &Tensor) -> Result<Tensor> {
    let door = Door::new("cross_entropy", x_td)?;
    let [t, _] = check(&door, x_td, w_vd, targets_t)?;
    let losses_t = door.empty_sums(&[t])?;
    x_td.device().enqueue(CrossEntropy { x_td, w_vd, targets_t, losses_t: &losses_t })?;
    Ok(losses_t)
}

/// Returns each token's loss, and the gradient of `scale` x their sum by x. Writes the gradient by the head
/// to `d_w`; with `add` it is added to what is there.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let (x, w) = (device.zeros(&[1, 1], Kind::F32)?, device.floats(&[1.0, -1.0], &[2, 1], Kind::F32)?);
/// let d_w = device.zeros(&[2, 1], Kind::F32)?;
/// let (_, d_x) = ops::cross_entropy_grad(&x, &w, &device.integers(&[0], &[1])?, 1.0, &d_w, true)?;
/// assert!((d_x.to_floats()?[0] + 1.0).abs() < 1e-6);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn cross_entropy_grad(
    x_td: &Tensor,
    w_vd: &Tensor,
    targets_t: &Tensor,
    scale: f64,
    d_w_vd: &Tensor,
    add: bool,
) -> Result<(Tensor, Tensor)> {
    let door = Door::new("cross_entropy_grad", x_td)?;
    let [t, d] = check(&door, x_td, w_vd, targets_t)?;
    door.operand("d_w", d_w_vd, w_vd.shape())?;
    let losses_t = door.empty_sums(&[t])?;
    let d_x_td = door.empty(&[t, d])?;
    x_td.device().enqueue(CrossEntropyGrad {
        x_td,
        w_vd,
        targets_t,
        scale,
        add,
        losses_t: &losses_t,
        d_x_td: &d_x_td,
        d_w_vd,
    })?;
    Ok((losses_t, d_x_td))
}

fn check(door: &Door<'_>, x_td: &Tensor, w_vd: &Tensor, targets_t: &Tensor) -> Result<[usize; 2]> {
    let [t, d] = door.dims("x", x_td)?;
    let [v, _] = door.dims("w", w_vd)?;
    door.operand("w", w_vd, &[v, d])?;
    door.operand("targets", targets_t, &[t])?;
    Ok([t, d])
}
