//! SwiGLU (Shazeer, arXiv 2002.05202), with the routing weight of each row where experts use it.
//!
//! The weight is applied before the down projection, which is the same as after it. So no layer keeps its
//! experts' answers: the gradient by the weight needs the activation only.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// `out = silu(gate) * up`, the first half of each row being the gate; times the row's weight where
    /// given.
    Swiglu = "swiglu" { read gate_up, read_if_given weights_r: sums, write out_rf }
    cost |op| moved(op.gate_up.len() / 2 * 3, op.gate_up)
}

op! {
    /// Gradient of [`Swiglu`], in place: `gate_up` becomes the gradient by it, and `d_out` becomes what
    /// [`Swiglu`] gives, which the gradient of the product behind it needs. `d_weights` is given exactly
    /// where `weights` is.
    SwigluGrad = "swiglu_grad" {
        update gate_up, read_if_given weights_r: sums, update d_out_rf, write_if_given d_weights_r: sums,
    }
    cost |op| moved(op.gate_up.len() / 2 * 6, op.gate_up)
}

/// Returns `weight * silu(gate) * up` of rows `[gate, up]`, `[R, F]`.
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
        door.operand("weights", weights_r, &[rows])?;
    }
    let out_rf = door.empty(&[rows, both / 2])?;
    gate_up.device().enqueue(Swiglu { gate_up, weights_r, out_rf: &out_rf })?;
    Ok(out_rf)
}

/// What [`swiglu_grad`] returns, in the memory of what it took.
pub struct PlainSwigluGrad {
    /// The gradient by gate and up, `[R, 2 F]`, where these were.
    pub d_gate_up: Tensor,
    /// The output of [`swiglu`], `[R, F]`, where the gradient by it was.
    pub out_rf: Tensor,
}

/// What [`weighted_swiglu_grad`] returns, the first two in the memory of what it took.
pub struct WeightedSwigluGrad {
    /// The gradient by gate and up, `[R, 2 F]`, where these were.
    pub d_gate_up: Tensor,
    /// The output of [`swiglu`], `[R, F]`, where the gradient by it was.
    pub out_rf: Tensor,
    /// The gradient by the rows' weights, `[R]`.
    pub d_weights_r: Tensor,
}

/// Returns the gradient by `gate_up`, of rows without weights, and the activation again; overwrites both of
/// its operands with them.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let gate_up = device.floats(&[0.0, 2.0], &[1, 2], Kind::F32)?;
/// let d_out = device.floats(&[1.0], &[1, 1], Kind::F32)?;
/// let gradient = ops::swiglu_grad(d_out, gate_up)?;
/// assert_eq!(gradient.d_gate_up.to_floats()?, [1.0, 0.0]);
/// assert_eq!(gradient.out_rf.to_floats()?, [0.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn swiglu_grad(d_out_rf: Tensor, gate_up: Tensor) -> Result<PlainSwigluGrad> {
    let door = Door::new("swiglu_grad", &gate_up)?;
    check(&door, &gate_up, &d_out_rf)?;
    gate_up.device().enqueue(SwigluGrad {
        gate_up: &gate_up,
        weights_r: None,
        d_out_rf: &d_out_rf,
        d_weights_r: None,
    })?;
    Ok(PlainSwigluGrad { d_gate_up: gate_up, out_rf: d_out_rf })
}

/// Returns the gradients by `gate_up` and by the rows' weights, and the activation again; overwrites
/// `gate_up` and `d_out`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let gate_up = device.floats(&[0.0, 2.0], &[1, 2], Kind::F32)?;
/// let [d_out, weights] = [1.0, 3.0].map(|x| device.floats(&[x], &[1, 1], Kind::F32));
/// let gradients = ops::weighted_swiglu_grad(d_out?, gate_up, &weights?.reshape(&[1]))?;
/// assert_eq!(gradients.d_gate_up.to_floats()?, [3.0, 0.0]);
/// assert_eq!(gradients.d_weights_r.to_floats()?, [0.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn weighted_swiglu_grad(
    d_out_rf: Tensor,
    gate_up: Tensor,
    weights_r: &Tensor,
) -> Result<WeightedSwigluGrad> {
    let door = Door::new("swiglu_grad", &gate_up)?;
    let rows = check(&door, &gate_up, &d_out_rf)?;
    door.operand("weights", weights_r, &[rows])?;
    let d_weights_r = door.empty_sums(&[rows])?;
    gate_up.device().enqueue(SwigluGrad {
        gate_up: &gate_up,
        weights_r: Some(weights_r),
        d_out_rf: &d_out_rf,
        d_weights_r: Some(&d_weights_r),
    })?;
    Ok(WeightedSwigluGrad { d_gate_up: gate_up, out_rf: d_out_rf, d_weights_r })
}

/// Checks the operands of both gradients; returns the rows.
fn check(door: &Door<'_>, gate_up: &Tensor, d_out_rf: &Tensor) -> Result<usize> {
    let [rows, both] = door.dims("gate_up", gate_up)?;
    door.require(both.is_multiple_of(2), "the width of gate_up", both, "even")?;
    door.operand("d_out", d_out_rf, &[rows, both / 2])?;
    Ok(rows)
}
