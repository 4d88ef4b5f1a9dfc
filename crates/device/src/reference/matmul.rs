//! The matrix product.

use super::operands::{rounded, store_or_add};
use crate::op::{Flip, MatMul};
use crate::precision::Precision;

pub(super) fn matmul(op: &MatMul<'_>, precision: Precision) {
    let (a, b) = (rounded(op.a, precision), rounded(op.b, precision));
    let [m, n, k] = op.sizes();
    store_or_add(op.out, &product(&a, &b, [m, k, n], op.flip), op.add);
}

/// `out[i,j] = sum over l of a[i,l] b[l,j]`, a being `[m, k]` (stored `[k, m]` if flipped), b `[k, n]` (or
/// `[n, k]`).
fn product(a: &[f64], b: &[f64], [m, k, n]: [usize; 3], flip: Flip) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                let left = if flip.a { a[l * m + i] } else { a[i * k + l] };
                let right = if flip.b { b[j * k + l] } else { b[l * n + j] };
                out[i * n + j] += left * right;
            }
        }
    }
    out
}
