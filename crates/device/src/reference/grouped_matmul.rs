//! One matrix product per expert, over rows sorted by expert. Expert e owns the rows `ends[e-1] .. ends[e]`.

use super::operands::{integers, rounded, store, store_or_add};
use crate::op::{GroupedMatMul, GroupedMatMulWeights};
use crate::precision::Precision;

pub(super) fn grouped_matmul(op: &GroupedMatMul<'_>, precision: Precision) {
    let (x, w, ends) = (rounded(op.x, precision), rounded(op.w_enk, precision), integers(op.ends_e));
    let [_, n, k] = op.w_enk.dims();
    let define = if op.flip { flipped } else { forward };
    store(op.out, &define(&x, &w, &ends, [n, k]));
}

pub(super) fn grouped_matmul_weights(op: &GroupedMatMulWeights<'_>, precision: Precision) {
    let (dy, x, ends) = (rounded(op.dy_rn, precision), rounded(op.x_rk, precision), integers(op.ends_e));
    let [_, n, k] = op.dw_enk.dims();
    store_or_add(op.dw_enk, &weights(&dy, &x, &ends, [n, k]), op.add);
}

/// `out[r,i] = sum over j of W_e[i,j] x[r,j]`, e being the owner of row r: x `[R, K]` gives out `[R, N]`.
fn forward(x: &[f64], w: &[f64], ends: &[i32], [n, k]: [usize; 2]) -> Vec<f64> {
    let rows = x.len().checked_div(k).unwrap_or(0);
    let mut out = vec![0.0; rows * n];
    for (e, row) in owned_rows(ends) {
        for i in 0..n {
            for j in 0..k {
                out[row * n + i] += w[(e * n + i) * k + j] * x[row * k + j];
            }
        }
    }
    out
}

/// `out[r,j] = sum over i of x[r,i] W_e[i,j]`: x `[R, N]` gives out `[R, K]`. The gradient of `forward` by
/// its rows.
fn flipped(x: &[f64], w: &[f64], ends: &[i32], [n, k]: [usize; 2]) -> Vec<f64> {
    let rows = x.len().checked_div(n).unwrap_or(0);
    let mut out = vec![0.0; rows * k];
    for (e, row) in owned_rows(ends) {
        for i in 0..n {
            for j in 0..k {
                out[row * k + j] += x[row * n + i] * w[(e * n + i) * k + j];
            }
        }
    }
    out
}

/// `dW_e[i,j] = sum over e's rows r of dy[r,i] x[r,j]`: the gradient of `forward` by its weights.
fn weights(dy: &[f64], x: &[f64], ends: &[i32], [n, k]: [usize; 2]) -> Vec<f64> {
    let mut dw = vec![0.0; ends.len() * n * k];
    for (e, row) in owned_rows(ends) {
        for i in 0..n {
            for j in 0..k {
                dw[(e * n + i) * k + j] += dy[row * n + i] * x[row * k + j];
            }
        }
    }
    dw
}

/// Each expert with each of its rows, in order.
fn owned_rows(ends: &[i32]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut start = 0;
    for (e, &end) in ends.iter().enumerate() {
        pairs.extend((start..end as usize).map(|row| (e, row)));
        start = end as usize;
    }
    pairs
}
