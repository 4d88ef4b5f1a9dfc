//! SwiGLU without its matrices, times a weight per row.

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;
use crate::op::{Swiglu, SwigluGrad};
use crate::tensor::Tensor;

/// Numbers that a processor computes at a time, so that what lies between two operators stays in its caches.
pub(super) const PIECE: usize = 1 << 18;

pub(super) fn swiglu(torch: &Torch, op: &Swiglu<'_>) -> Result<(), Refusal> {
    let Swiglu { gate_up, weights_r, out_rf } = *op;
    let aten = torch.aten();
    for rows in pieces(torch, gate_up) {
        let [gate, up] = halves(torch, gate_up, rows)?;
        let opened = aten.silu(&gate)?;
        if let Some(weights) = weights_r {
            aten.mul_(&opened, &part(torch, weights, rows)?)?;
        }
        aten.mul_out(&opened, &up, &part(torch, out_rf, rows)?)?;
    }
    Ok(())
}

/// `silu(gate)` is computed again rather than kept. Each result takes the place of an operand once nothing
/// reads that any more.
pub(super) fn grad(torch: &Torch, op: &SwigluGrad<'_>) -> Result<(), Refusal> {
    let SwigluGrad { gate_up, weights_r, d_out_rf, d_weights_r } = *op;
    let aten = torch.aten();
    for rows in pieces(torch, gate_up) {
        let [gate, up] = halves(torch, gate_up, rows)?;
        let d_out = part(torch, d_out_rf, rows)?;
        let (opened, mut d_opened) = (aten.silu(&gate)?, aten.mul(&d_out, &up)?);
        if let Some(d_weights) = d_weights_r {
            let terms = aten.mul(&d_opened, &opened)?;
            part(torch, d_weights, rows)?.set(&aten.sum(&terms, Some(&[1]), true, None)?)?;
        }
        let mut out = aten.mul(&opened, &up)?;
        aten.mul_out(&opened, &d_out, &up)?;
        if let Some(weights) = weights_r {
            let weights = part(torch, weights, rows)?;
            aten.mul_(&up, &weights)?;
            out = aten.mul_(&out, &weights)?;
            d_opened = aten.mul_(&d_opened, &weights)?;
        }
        d_out.set(&out)?;
        aten.silu_backward_out(&d_opened, &gate, &gate)?;
    }
    Ok(())
}

/// Rows in pieces of a processor's size, else all at once: first row, and how many.
fn pieces(torch: &Torch, gate_up: &Tensor) -> impl Iterator<Item = [usize; 2]> {
    let (rows, width) = gate_up.rows_and_width();
    let most = if torch.on_cpu() { (PIECE / width.max(1)).max(1) } else { rows.max(1) };
    (0..rows).step_by(most).map(move |first| [first, most.min(rows - first)])
}

/// Some rows of a tensor of one number or more per row.
fn part(torch: &Torch, x: &Tensor, [first, rows]: [usize; 2]) -> Result<Value, Refusal> {
    let width = if x.shape().len() > 1 { x.rows_and_width().1 } else { 1 };
    torch.strided(x, &[rows as i64, width as i64], &[width as i64, 1], first * width)
}

/// The gates and the ups of some rows.
fn halves(torch: &Torch, gate_up: &Tensor, [first, rows]: [usize; 2]) -> Result<[Value; 2], Refusal> {
    let (_, width) = gate_up.rows_and_width();
    let half = |column: usize| {
        let (sizes, strides) = ([rows as i64, width as i64 / 2], [width as i64, 1]);
        torch.strided(gate_up, &sizes, &strides, first * width + column)
    };
    Ok([half(0)?, half(width / 2)?])
}
