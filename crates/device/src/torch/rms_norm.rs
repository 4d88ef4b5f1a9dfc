//! RMSNorm and its gradient.

use super::Torch;
use super::value::{Value, Words};
use crate::op::Op;
use crate::tensor::Tensor;

pub(super) fn run(torch: &Torch, op: Op<'_>) -> Result<(), Words> {
    match op {
        Op::RmsNorm { x, scale_d, epsilon, out } => forward(torch, x, scale_d, epsilon, out),
        Op::RmsNormGrad { d_out, x, scale_d, epsilon, d_x, d_scale_d, add } => {
            backward(torch, [d_out, x, scale_d], epsilon, [d_x, d_scale_d], add)
        }
        _ => unreachable!("another file's op"),
    }
}

fn forward(torch: &Torch, x: &Tensor, scale_d: &Tensor, epsilon: f64, out: &Tensor) -> Result<(), Words> {
    let aten = torch.aten();
    let sizes = rows(x);
    let x = torch.reshaped(x, &sizes)?;
    let normed = aten.mul(&x, &inverse_root(torch, &x, epsilon)?)?;
    aten.mul_out(&normed, &torch.floats(scale_d)?, &torch.reshaped(out, &sizes)?)?;
    Ok(())
}

/// With n = x r the normed row and g = d_out s: `d_x = r (g - n mean(g n))`, `d_s = sum over rows of d_out n`.
fn backward(
    torch: &Torch,
    [d_out, x, scale_d]: [&Tensor; 3],
    epsilon: f64,
    [d_x, d_scale_d]: [&Tensor; 2],
    add: bool,
) -> Result<(), Words> {
    let aten = torch.aten();
    let sizes = rows(x);
    let (x, d_out) = (torch.reshaped(x, &sizes)?, torch.reshaped(d_out, &sizes)?);
    let root = inverse_root(torch, &x, epsilon)?;
    let normed = aten.mul(&x, &root)?;
    let d_normed = aten.mul(&d_out, &normed)?;
    torch.accumulate(&torch.floats(d_scale_d)?, &aten.sum(&d_normed, Some(&[0]), false, None)?)?;
    let scale = torch.floats(scale_d)?;
    let along = aten.mean(&aten.mul_(&d_normed, &scale)?, Some(&[1]), true, None)?;
    let across = aten.mul(&d_out, &scale)?.minus(&aten.mul_(&normed, &along)?, 1.0)?;
    let out = torch.reshaped(d_x, &sizes)?;
    if add {
        torch.accumulate(&out, &aten.mul_(&across, &root)?)
    } else {
        aten.mul_out(&across, &root, &out)?;
        Ok(())
    }
}

/// `1 / sqrt(mean(x^2) + epsilon)` of each row.
fn inverse_root(torch: &Torch, x: &Value, epsilon: f64) -> Result<Value, Words> {
    let aten = torch.aten();
    let squares = aten.mean(&aten.mul(x, x)?, Some(&[1]), true, None)?;
    aten.rsqrt(&squares.plus(&torch.scalar(epsilon)?)?)
}

fn rows(x: &Tensor) -> [i64; 2] {
    let (rows, width) = x.rows_and_width();
    [rows as i64, width as i64]
}
