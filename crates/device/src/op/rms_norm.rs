//! RMSNorm over the last dimension (Zhang and Sennrich, arXiv 1910.07467).

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// `out = x / sqrt(mean(x^2) + epsilon) * scale`, over the last dimension.
    RmsNorm = "rms_norm" { read x, read scale_d, write out }
    {
        /// Added to the mean square.
        epsilon: f64,
    }
    cost |op| moved(2 * op.x.len(), op.x)
}

op! {
    /// Gradient of [`RmsNorm`]; adds into `d_scale`, and into `d_x` where `add` says so.
    RmsNormGrad = "rms_norm_grad" {
        read d_out, read x, read scale_d, update_if(add) d_x, update d_scale_d: sums,
    }
    {
        /// Added to the mean square.
        epsilon: f64,
        /// Whether the gradient is added to `d_x`.
        add: bool,
    }
    cost |op| moved((3 + usize::from(op.add)) * op.x.len(), op.x)
}

/// Returns `x / sqrt(mean(x^2) + epsilon) * scale`, over the last dimension.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, -1.0], &[1, 2], Kind::F32)?;
/// let normed = ops::rms_norm(&x, &device.floats(&[2.0, 3.0], &[2], Kind::F32)?, 0.0)?;
/// assert_eq!(normed.to_floats()?, [2.0, -3.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn rms_norm(x: &Tensor, scale_d: &Tensor, epsilon: f64) -> Result<Tensor> {
    let door = Door::new("rms_norm", x)?;
    door.operand("scale", scale_d, &[x.rows_and_width().1])?;
    let out = door.empty(x.shape())?;
    x.device().enqueue(RmsNorm { x, scale_d, epsilon, out: &out })?;
    Ok(out)
}

/// Returns the gradient by x: `d_x`, which it was added to, or a new tensor where none is given. Adds the
/// gradient by the scale to `d_scale`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, -1.0], &[1, 2], Kind::F32)?;
/// let d_out = device.floats(&[1.0, 1.0], &[1, 2], Kind::F32)?;
/// let (scale, d_scale) = (device.floats(&[1.0, 1.0], &[2], Kind::F32)?, device.zeros(&[2], Kind::F32)?);
/// let d_x = ops::rms_norm_grad(&d_out, &x, &scale, 0.0, None, &d_scale)?;
/// assert_eq!(d_x.to_floats()?, [1.0, 1.0]);
/// assert_eq!(d_scale.to_floats()?, [1.0, -1.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn rms_norm_grad(
    d_out: &Tensor,
    x: &Tensor,
    scale_d: &Tensor,
    epsilon: f64,
    d_x: Option<&Tensor>,
    d_scale_d: &Tensor,
) -> Result<Tensor> {
    let door = Door::new("rms_norm_grad", d_out)?;
    let width = x.rows_and_width().1;
    door.operand("x", x, d_out.shape())?;
    door.operand("scale", scale_d, &[width])?;
    door.operand("d_scale", d_scale_d, &[width])?;
    let add = d_x.is_some();
    let d_x = match d_x {
        Some(d_x) => d_x.clone(),
        None => door.empty(x.shape())?,
    };
    door.operand("d_x", &d_x, x.shape())?;
    x.device().enqueue(RmsNormGrad { d_out, x, scale_d, epsilon, d_x: &d_x, d_scale_d, add })?;
    Ok(d_x)
}
