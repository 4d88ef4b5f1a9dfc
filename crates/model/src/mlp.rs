//! The dense feed-forward network, `down(silu(gate x) * up x)`: a dense layer's, and the shared expert of the
//! others.

use crate::gradients::Gradients;
use crate::weights::DenseWeights;
use lingot_device::ops::PlainSwigluGrad;
use lingot_device::{Flip, Result, Tensor, ops};

/// The pre-activation `[T, 2 F]`, with the weights it was computed with; everything else is computed again.
pub(crate) struct DenseSaved<'m> {
    weights: &'m DenseWeights,
    gate_up: Tensor,
}

/// Returns the output `[T, D]` and what the backward pass needs.
pub(crate) fn forward<'m>(weights: &'m DenseWeights, h_td: &Tensor) -> Result<(Tensor, DenseSaved<'m>)> {
    let gate_up = ops::matmul(h_td, &weights.gate_up, Flip::B)?;
    let out_td = ops::matmul(&ops::swiglu(&gate_up, None)?, &weights.down, Flip::B)?;
    Ok((out_td, DenseSaved { weights, gate_up }))
}

/// Returns the gradient by `h`, `[T, D]`; adds to those of the weights.
pub(crate) fn backward(
    saved: DenseSaved<'_>,
    gradients: &Gradients,
    h_td: &Tensor,
    d_out_td: &Tensor,
) -> Result<Tensor> {
    let DenseSaved { weights, gate_up } = saved;
    let d_active_tf = ops::matmul(d_out_td, &weights.down, Flip::NONE)?;
    let PlainSwigluGrad { d_gate_up, out_rf: active_tf } = ops::swiglu_grad(d_active_tf, gate_up)?;
    gradients.add_product(&weights.down, d_out_td, &active_tf)?;
    drop(active_tf);
    gradients.add_product(&weights.gate_up, &d_gate_up, h_td)?;
    ops::matmul(&d_gate_up, &weights.gate_up, Flip::NONE)
}
