//! RMSNorm (Zhang and Sennrich, arXiv 1910.07467, equation 4, with an epsilon).

use super::operands::{add, floats, store, store_or_add};
use crate::op::{RmsNorm, RmsNormGrad};

pub(super) fn rms_norm(op: &RmsNorm<'_>) {
    store(op.out, &forward(&floats(op.x), &floats(op.scale_d), op.epsilon));
}

pub(super) fn rms_norm_grad(op: &RmsNormGrad<'_>) {
    let (d_x, d_scale) = backward(&floats(op.d_out), &floats(op.x), &floats(op.scale_d), op.epsilon);
    store_or_add(op.d_x, &d_x, op.add);
    add(op.d_scale_d, &d_scale);
}

/// `out_i = x_i r s_i` for each row x, with `r = 1 / sqrt(mean(x^2) + epsilon)`, the scale being s.
fn forward(x: &[f64], scale: &[f64], epsilon: f64) -> Vec<f64> {
    let d = scale.len();
    let mut out = vec![0.0; x.len()];
    for (row, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        let r = inverse_root(row, epsilon);
        for i in 0..d {
            out[i] = row[i] * r * scale[i];
        }
    }
    out
}

/// The gradients by x and by the scale. With `g_i = d_out_i s_i` and since `dr/dx_i = -r^3 x_i / D`:
/// `d_x_i = r g_i - x_i r^3 / D (sum over j of g_j x_j)`, and `d_s_i = sum over rows of d_out_i x_i r`.
fn backward(d_out: &[f64], x: &[f64], scale: &[f64], epsilon: f64) -> (Vec<f64>, Vec<f64>) {
    let d = scale.len();
    let (mut d_x, mut d_scale) = (vec![0.0; x.len()], vec![0.0; d]);
    for first in (0..x.len()).step_by(d) {
        let (row, d_out) = (&x[first..first + d], &d_out[first..first + d]);
        let r = inverse_root(row, epsilon);
        let mut along = 0.0;
        for i in 0..d {
            along += d_out[i] * scale[i] * row[i];
        }
        for i in 0..d {
            d_x[first + i] = r * d_out[i] * scale[i] - row[i] * r.powi(3) / d as f64 * along;
            d_scale[i] += d_out[i] * row[i] * r;
        }
    }
    (d_x, d_scale)
}

fn inverse_root(row: &[f64], epsilon: f64) -> f64 {
    let squares: f64 = row.iter().map(|x| x * x).sum();
    1.0 / (squares / row.len() as f64 + epsilon).sqrt()
}
