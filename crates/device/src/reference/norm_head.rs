//! NormHead: a head whose columns have norm one over the vocabulary (Ling report, arXiv 2503.05139, equation
//! 4).

use super::operands::{floats, store, width};
use crate::op::{ColumnScales, ScaleColumns};

pub(super) fn column_scales(op: &ColumnScales<'_>) {
    store(op.out_d, &scales(&floats(op.w_vd), width(op.w_vd)));
}

pub(super) fn scale_columns(op: &ScaleColumns<'_>) {
    store(op.out_td, &scaled(&floats(op.x_td), &floats(op.scales_d)));
}

/// `out[d] = 1 / (sqrt(sum over v of w[v,d]^2) + 1e-7)`.
fn scales(w: &[f64], d: usize) -> Vec<f64> {
    let mut squares = vec![0.0; d];
    for row in w.chunks_exact(d) {
        for i in 0..d {
            squares[i] += row[i] * row[i];
        }
    }
    squares.iter().map(|squares| 1.0 / (squares.sqrt() + 1e-7)).collect()
}

/// `out[t,d] = x[t,d] scales[d]`.
fn scaled(x: &[f64], scales: &[f64]) -> Vec<f64> {
    x.iter().zip(scales.iter().cycle()).map(|(x, scale)| x * scale).collect()
}
