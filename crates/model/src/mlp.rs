//! The dense feed-forward network, `down(silu(gate x) * up x)`: of dense layers, and shared by all tokens of the others.

use crate::weights::DenseWeights;
use lingot_device::{Flip, Result, Tensor, ops};

/// The pre-activation; everything else is computed again.
pub(crate) struct DenseSaved {
    gate_up: Tensor,
}

pub(crate) fn forward(weights: &DenseWeights, h_td: &Tensor) -> Result<(Tensor, DenseSaved)> {
    let gate_up = ops::matmul(h_td, &weights.gate_up, Flip::B)?;
    let out_td = ops::matmul(&ops::swiglu(&gate_up, None)?, &weights.down, Flip::B)?;
    Ok((out_td, DenseSaved { gate_up }))
}

/// The gradient by `h`.
pub(crate) fn backward(
    weights: &DenseWeights,
    grads: &DenseWeights,
    h_td: &Tensor,
    saved: &DenseSaved,
    d_out_td: &Tensor,
) -> Result<Tensor> {
    let active_tf = ops::swiglu(&saved.gate_up, None)?;
    ops::matmul_onto(&grads.down, d_out_td, &active_tf, Flip::A)?;
    drop(active_tf);
    let d_active_tf = ops::matmul(d_out_td, &weights.down, Flip::NONE)?;
    let (d_gate_up, _) = ops::swiglu_grad(&d_active_tf, &saved.gate_up, None)?;
    ops::matmul_onto(&grads.gate_up, &d_gate_up, h_td, Flip::A)?;
    ops::matmul(&d_gate_up, &weights.gate_up, Flip::NONE)
}
