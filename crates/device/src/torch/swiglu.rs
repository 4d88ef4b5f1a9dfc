//! SwiGLU without its matrices, times a weight per row.

use super::Torch;
use super::value::{Value, Words};
use crate::tensor::Tensor;

pub(super) fn swiglu(
    torch: &Torch,
    gate_up: &Tensor,
    weights_r: Option<&Tensor>,
    out_rf: &Tensor,
) -> Result<(), Words> {
    let aten = torch.aten();
    let [gate, up] = halves(torch, gate_up)?;
    let out = torch.floats(out_rf)?;
    let opened = aten.silu(&gate)?;
    if let Some(weights) = weights_r {
        let weights = torch.reshaped(weights, &[weights.len() as i64, 1])?;
        aten.mul_(&opened, &weights)?;
    }
    aten.mul_out(&opened, &up, &out)?;
    Ok(())
}

/// `silu(gate)` is computed again rather than kept.
pub(super) fn grad(
    torch: &Torch,
    [gate_up, d_out_rf]: [&Tensor; 2],
    weights_r: Option<&Tensor>,
    d_gate_up: &Tensor,
    d_weights_r: Option<&Tensor>,
) -> Result<(), Words> {
    let aten = torch.aten();
    let [gate, up] = halves(torch, gate_up)?;
    let [d_gate, d_up] = halves(torch, d_gate_up)?;
    let d_out = torch.floats(d_out_rf)?;
    let (opened, mut d_opened) = (aten.silu(&gate)?, aten.mul(&d_out, &up)?);
    if let Some(d_weights) = d_weights_r {
        let terms = aten.mul(&d_opened, &opened)?;
        torch.floats(d_weights)?.set(&aten.sum(&terms, Some(&[1]), false, None)?)?;
    }
    aten.mul_out(&opened, &d_out, &d_up)?;
    if let Some(weights) = weights_r {
        let weights = torch.reshaped(weights, &[weights.len() as i64, 1])?;
        aten.mul_(&d_up, &weights)?;
        d_opened = aten.mul_(&d_opened, &weights)?;
    }
    aten.silu_backward_out(&d_opened, &gate, &d_gate)?;
    Ok(())
}

/// The gates and the ups of each row.
fn halves(torch: &Torch, gate_up: &Tensor) -> Result<[Value; 2], Words> {
    let (rows, width) = gate_up.rows_and_width();
    let half = |first| torch.strided(gate_up, &[rows as i64, width as i64 / 2], &[width as i64, 1], first);
    Ok([half(0)?, half(width / 2)?])
}
