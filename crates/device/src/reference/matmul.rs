//! The matrix product.

use crate::op::Flip;

/// `out[i,j] = sum over l of a[i,l] b[l,j]`, a being `[m, k]` (stored `[k, m]` if flipped), b `[k, n]` (or `[n, k]`).
pub(super) fn matmul(a: &[f64], b: &[f64], [m, k, n]: [usize; 3], flip: Flip) -> Vec<f64> {
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
