//! SwiGLU (Shazeer, arXiv 2002.05202), with the routing weight of each row where experts use it.
//!
//! The weight is applied before the down projection, which is the same as after it. So no layer keeps its
//! experts' answers: the gradient by the weight needs the activation only.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::Cost;

op! {
    /// `out = silu(gate) * up`, the first half of each row being the gate; times the row's weight where
    /// given.
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

/// Returns `weight * silu(gate) * up` of rows `[gate, up]`, [R, F].
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let gate_up = device.floats(&[0.0, 100.0, 5.0, 2.0], &[1, 4], Kind::F32)?;
/// assert_eq!(ops::swiglu(&gate_up, None)?.to_floats()?, [0.0, 200.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
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

/// Returns the gradient by `gate_up`, and by the weights where there are any.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let gate_up = device.floats(&[0.0, 2.0], &[1, 2], Kind::F32)?;
/// let d_out = device.floats(&[1.0], &[1, 1], Kind::F32)?;
/// let (d_gate_up, d_weights) = ops::swiglu_grad(&d_out, &gate_up, None)?;
/// assert_eq!(d_gate_up.to_floats()?, [1.0, 0.0]);
/// assert!(d_weights.is_none());
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn swiglu_grad(
    d_out_rf: &Tensor,
    gate_up: &Tensor,
    weights_r: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let door = Door::new("swiglu_grad", gate_up)?;
    let [rows, both] = door.dims("gate_up", gate_up)?;
    door.require(both.is_multiple_of(2), "the width of gate_up", both, "even")?;
    door.floats("d_out", d_out_rf, &[rows, both / 2])?;
    let d_weights_r = match weights_r {
        Some(weights_r) => {
            door.floats("weights", weights_r, &[rows])?;
            Some(door.empty(&[rows])?)
        }
        None => None,
    };
    let d_gate_up = door.empty(&[rows, both])?;
    gate_up.device().enqueue(SwigluGrad {
        gate_up,
        weights_r,
        d_out_rf,
        d_gate_up: &d_gate_up,
        d_weights_r: d_weights_r.as_ref(),
    })?;
    Ok((d_gate_up, d_weights_r))
}
