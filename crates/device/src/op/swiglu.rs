//! SwiGLU (Shazeer, arXiv 2002.05202), with the routing weight of each row where experts use it.
//!
//! The weight is applied before the down projection, which is the same as after it. So no layer keeps its experts'
//! answers: the gradient by the weight needs the activation only.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::Cost;

op! {
    /// `out = silu(gate) * up`, the first half of each row being the gate; times the row's weight where given.
    Swiglu = "swiglu" {
        gate_up = "gate_up": read,
        weights_r = "weights": read_if_given,
        out_rf = "out": write,
    }
}

op! {
    /// Gradient of [`Swiglu`]. `d_weights` is given exactly where `weights` is.
    SwigluGrad = "swiglu_grad" {
        gate_up = "gate_up": read,
        weights_r = "weights": read_if_given,
        d_out_rf = "d_out": read,
        d_gate_up = "d_gate_up": write,
        d_weights_r = "d_weights": write_if_given,
    }
}

impl Swiglu<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(self.gate_up.len() / 2 * 3)
    }
}

impl SwigluGrad<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(self.gate_up.len() / 2 * 5)
    }
}

/// `weight * silu(gate) * up` of rows `[gate, up]`.
pub fn swiglu(gate_up: &Tensor, weights_r: Option<&Tensor>) -> Result<Tensor> {
    let door = Door::new("swiglu", gate_up)?;
    let [rows, both] = door.dims("gate_up", gate_up)?;
    door.require(both.is_multiple_of(2), "the width of gate_up", both, "even")?;
    if let Some(weights_r) = weights_r {
        door.floats("weights", weights_r, &[rows])?;
    }
    let out_rf = door.empty(&[rows, both / 2])?;
    gate_up.device().enqueue(Swiglu { gate_up, weights_r, out_rf: &out_rf })?;
    Ok(out_rf)
}

/// What [`weighted_swiglu_grad`] returns.
pub struct WeightedSwigluGrad {
    /// The gradient by gate and up, `[R, 2 F]`.
    pub d_gate_up: Tensor,
    /// The gradient by the rows' weights, `[R]`.
    pub d_weights_r: Tensor,
}

/// Returns the gradient by `gate_up`, `[R, 2 F]`, of rows without weights.
pub fn swiglu_grad(d_out_rf: &Tensor, gate_up: &Tensor) -> Result<Tensor> {
    let door = Door::new("swiglu_grad", gate_up)?;
    let [rows, both] = halves(&door, gate_up, d_out_rf)?;
    let d_gate_up = door.empty(&[rows, both])?;
    let (weights_r, d_weights_r) = (None, None);
    gate_up.device().enqueue(SwigluGrad {
        gate_up,
        weights_r,
        d_out_rf,
        d_gate_up: &d_gate_up,
        d_weights_r,
    })?;
    Ok(d_gate_up)
}

/// Returns the gradients by `gate_up` and by the rows' weights.
pub fn weighted_swiglu_grad(
    d_out_rf: &Tensor,
    gate_up: &Tensor,
    weights_r: &Tensor,
) -> Result<WeightedSwigluGrad> {
    let door = Door::new("swiglu_grad", gate_up)?;
    let [rows, both] = halves(&door, gate_up, d_out_rf)?;
    door.floats("weights", weights_r, &[rows])?;
    let d_weights_r = door.empty(&[rows])?;
    let d_gate_up = door.empty(&[rows, both])?;
    gate_up.device().enqueue(SwigluGrad {
        gate_up,
        weights_r: Some(weights_r),
        d_out_rf,
        d_gate_up: &d_gate_up,
        d_weights_r: Some(&d_weights_r),
    })?;
    Ok(WeightedSwigluGrad { d_gate_up, d_weights_r })
}

/// Checks the operands of both gradients; returns the rows and the width of gate and up together.
fn halves(door: &Door<'_>, gate_up: &Tensor, d_out_rf: &Tensor) -> Result<[usize; 2]> {
    let [rows, both] = door.dims("gate_up", gate_up)?;
    door.require(both.is_multiple_of(2), "the width of gate_up", both, "even")?;
    door.floats("d_out", d_out_rf, &[rows, both / 2])?;
    Ok([rows, both])
}
