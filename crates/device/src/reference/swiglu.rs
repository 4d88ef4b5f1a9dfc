//! SwiGLU (Shazeer, arXiv 2002.05202, equation 6) without its matrices, times a weight per row.

use super::operands::{floats, store, width};
use crate::op::{Swiglu, SwigluGrad};

pub(super) fn swiglu(op: &Swiglu<'_>) {
    let weights = op.weights_r.map(floats);
    store(op.out_rf, &forward(&floats(op.gate_up), weights.as_deref(), width(op.out_rf)));
}

pub(super) fn swiglu_grad(op: &SwigluGrad<'_>) {
    let (d_out, weights) = (floats(op.d_out_rf), op.weights_r.map(floats));
    let (gate_up, width) = (floats(op.gate_up), width(op.d_out_rf));
    let (d_gate_up, d_weights) = backward(&d_out, &gate_up, weights.as_deref(), width);
    store(op.d_out_rf, &forward(&gate_up, weights.as_deref(), width));
    store(op.gate_up, &d_gate_up);
    if let Some(d_weights_r) = op.d_weights_r {
        store(d_weights_r, &d_weights);
    }
}

/// `out[r,i] = w_r silu(gate[r,i]) up[r,i]`, `silu(x) = x sigmoid(x)`; each row holds F gates, then F ups.
fn forward(gate_up: &[f64], weights: Option<&[f64]>, f: usize) -> Vec<f64> {
    let rows = gate_up.len().checked_div(2 * f).unwrap_or(0);
    let mut out = vec![0.0; rows * f];
    for r in 0..rows {
        let weight = weights.map_or(1.0, |weights| weights[r]);
        for i in 0..f {
            let (gate, up) = (gate_up[r * 2 * f + i], gate_up[r * 2 * f + f + i]);
            out[r * f + i] = weight * gate * sigmoid(gate) * up;
        }
    }
    out
}

/// The gradients by gates and ups, and by the weights. `silu'(x) = sigmoid(x) (1 + x (1 - sigmoid(x)))`.
fn backward(d_out: &[f64], gate_up: &[f64], weights: Option<&[f64]>, f: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = gate_up.len().checked_div(2 * f).unwrap_or(0);
    let (mut d_gate_up, mut d_weights) = (vec![0.0; gate_up.len()], vec![0.0; rows]);
    for r in 0..rows {
        let weight = weights.map_or(1.0, |weights| weights[r]);
        for i in 0..f {
            let (gate, up) = (gate_up[r * 2 * f + i], gate_up[r * 2 * f + f + i]);
            let (s, d_out) = (sigmoid(gate), d_out[r * f + i]);
            d_gate_up[r * 2 * f + i] = d_out * weight * up * s * (1.0 + gate * (1.0 - s));
            d_gate_up[r * 2 * f + f + i] = d_out * weight * gate * s;
            d_weights[r] += d_out * gate * s * up;
        }
    }
    (d_gate_up, d_weights)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
