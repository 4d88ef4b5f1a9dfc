//! RMSNorm over the last dimension (Zhang and Sennrich, arXiv 1910.07467).

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// `x / sqrt(mean(x^2) + epsilon) * scale`.
pub fn rms_norm(x: &Tensor, scale_d: &Tensor, epsilon: f64) -> Result<Tensor> {
    let door = Door::new("rms_norm", x)?;
    door.floats("scale", scale_d, &[x.rows_and_width().1])?;
    let out = door.empty(x.shape())?;
    x.device().run(Op::RmsNorm { x, scale_d, epsilon, out: &out })?;
    Ok(out)
}

/// The gradient: adds into `d_scale`; adds into `d_x` where it is given, and returns a new one otherwise.
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
    door.floats("x", x, d_out.shape())?;
    door.floats("scale", scale_d, &[width])?;
    door.floats("d_scale", d_scale_d, &[width])?;
    let add = d_x.is_some();
    let d_x = match d_x {
        Some(d_x) => d_x.clone(),
        None => door.empty(x.shape())?,
    };
    door.floats("d_x", &d_x, x.shape())?;
    door.apart("d_x", &d_x, &[d_out, x, scale_d, d_scale_d])?;
    door.apart("d_scale", d_scale_d, &[d_out, x, scale_d])?;
    x.device().run(Op::RmsNormGrad { d_out, x, scale_d, epsilon, d_x: &d_x, d_scale_d, add })?;
    Ok(d_x)
}
