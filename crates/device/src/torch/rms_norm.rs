//! RMSNorm and its gradient.

use super::Torch;
use super::probe::{Numbers, agree_in_f32};
use super::refusal::Refusal;
use super::value::Value;
use crate::op::{RmsNorm, RmsNormGrad};
use crate::tensor::Tensor;

pub(super) fn rms_norm(torch: &Torch, op: &RmsNorm<'_>) -> Result<(), Refusal> {
    let sizes = rows(op.x);
    let [x, out] = [torch.reshaped(op.x, &sizes)?, torch.reshaped(op.out, &sizes)?];
    let forward = if torch.routes.norm.is_found() { fused } else { composed };
    forward(torch, &x, &torch.floats(op.scale_d)?, op.epsilon, &out)
}

pub(super) fn grad(torch: &Torch, op: &RmsNormGrad<'_>) -> Result<(), Refusal> {
    let sizes = rows(op.x);
    let rows = |tensor| torch.reshaped(tensor, &sizes);
    let given = [rows(op.d_out)?, rows(op.x)?, torch.floats(op.scale_d)?];
    let out = [rows(op.d_x)?, torch.floats(op.d_scale_d)?];
    let backward = if torch.routes.norm_grad.is_found() { fused_grad } else { composed_grad };
    backward(torch, &given, op.epsilon, &out, op.add)
}

fn composed(torch: &Torch, x: &Value, scale: &Value, epsilon: f64, out: &Value) -> Result<(), Refusal> {
    let aten = torch.aten();
    let normed = aten.mul(x, &inverse_root(torch, x, epsilon)?)?;
    aten.mul_out(&normed, scale, out)?;
    Ok(())
}

fn fused(torch: &Torch, x: &Value, scale: &Value, epsilon: f64, out: &Value) -> Result<(), Refusal> {
    let (normed, _) = torch.aten().fused_rms_norm(x, &x.sizes()?[1..], Some(scale), Some(epsilon))?;
    out.set(&normed)
}

/// With n = x r the normed row and g = d_out s: `d_x = r (g - n mean(g n))`,
/// `d_s = sum over rows of d_out n`.
fn composed_grad(
    torch: &Torch,
    [d_out, x, scale]: &[Value; 3],
    epsilon: f64,
    [d_x, d_scale]: &[Value; 2],
    add: bool,
) -> Result<(), Refusal> {
    let aten = torch.aten();
    let root = inverse_root(torch, x, epsilon)?;
    let normed = aten.mul(x, &root)?;
    let d_normed = aten.mul(d_out, &normed)?;
    torch.accumulate(d_scale, &aten.sum(&d_normed, Some(&[0]), false, None)?)?;
    let along = aten.mean(&aten.mul_(&d_normed, scale)?, Some(&[1]), true, None)?;
    let across = aten.mul(d_out, scale)?.minus(&aten.mul_(&normed, &along)?, 1.0)?;
    if add {
        torch.accumulate(d_x, &aten.mul_(&across, &root)?)
    } else {
        aten.mul_out(&across, &root, d_x)?;
        Ok(())
    }
}

fn fused_grad(
    torch: &Torch,
    [d_out, x, scale]: &[Value; 3],
    epsilon: f64,
    [d_x, d_scale]: &[Value; 2],
    add: bool,
) -> Result<(), Refusal> {
    let aten = torch.aten();
    let width = &x.sizes()?[1..];
    let root = match torch.routes.norm.found() {
        Some(()) => aten.fused_rms_norm(x, width, Some(scale), Some(epsilon))?.1,
        None => inverse_root(torch, x, epsilon)?,
    };
    let found = aten.fused_rms_norm_backward(d_out, x, width, &root, Some(scale), &[true, true])?;
    torch.accumulate(d_scale, &found.1)?;
    if add { torch.accumulate(d_x, &found.0) } else { d_x.set(&found.0) }
}

/// Whether the fused operator agrees with the composition.
pub(super) fn try_fused(torch: &Torch) -> Result<(), Refusal> {
    let mut numbers = Numbers::new(torch);
    let (x, scale) = (numbers.random(&[7, 48])?, numbers.random(&[48])?);
    let [found, wanted] = [numbers.random(&[7, 48])?, numbers.random(&[7, 48])?];
    fused(torch, &x, &scale, 1e-2, &found)?;
    composed(torch, &x, &scale, 1e-2, &wanted)?;
    agree_in_f32(torch, "the output", &found, &wanted)
}

/// As `try_fused`, with gradients that are added to what is there.
pub(super) fn try_fused_grad(torch: &Torch) -> Result<(), Refusal> {
    let mut numbers = Numbers::new(torch);
    let given = [numbers.random(&[7, 48])?, numbers.random(&[7, 48])?, numbers.random(&[48])?];
    let zeros = |sizes: &[i64]| torch.full(sizes, torch.torch.dtypes.f32, 0.0);
    let [found, wanted] = [[zeros(&[7, 48])?, zeros(&[48])?], [zeros(&[7, 48])?, zeros(&[48])?]];
    for add in [false, true] {
        fused_grad(torch, &given, 1e-2, &found, add)?;
        composed_grad(torch, &given, 1e-2, &wanted, add)?;
        agree_in_f32(torch, "the gradient by rows", &found[0], &wanted[0])?;
        agree_in_f32(torch, "the gradient by the scale", &found[1], &wanted[1])?;
    }
    Ok(())
}

/// `1 / sqrt(mean(x^2) + epsilon)` of each row.
fn inverse_root(torch: &Torch, x: &Value, epsilon: f64) -> Result<Value, Refusal> {
    let aten = torch.aten();
    let squares = aten.mean(&aten.mul(x, x)?, Some(&[1]), true, None)?;
    aten.rsqrt(&squares.plus(&torch.scalar(epsilon)?)?)
}

fn rows(x: &Tensor) -> [i64; 2] {
    let (rows, width) = x.rows_and_width();
    [rows as i64, width as i64]
}
