//! Grouped matrix product: every expert's rows times its matrix, all experts in one parallel loop.

use super::gemm::{Matrix, Product, Sizes, Target, products};
use super::team::Team;

/// Sizes of a grouped product: E matrices of N x K.
#[derive(Clone, Copy)]
pub(super) struct Experts<'a> {
    pub(super) ends_e: &'a [i32],
    pub(super) n: usize,
    pub(super) k: usize,
}

impl Experts<'_> {
    /// The first row of expert `e`, and how many are its own.
    fn rows(&self, e: usize) -> (usize, usize) {
        let from = if e == 0 { 0 } else { self.ends_e[e - 1].max(0) as usize };
        (from, (self.ends_e[e].max(0) as usize).saturating_sub(from))
    }
}

/// Forward `out[r] = W_e x[r]`, or with `flip` `out[r] = x[r] W_e`. `tasks` is scratch memory.
pub(super) fn grouped_matmul(
    team: &Team,
    experts: Experts<'_>,
    x: &[f32],
    w_enk: &[f32],
    out: &mut [f32],
    flip: bool,
    tasks: &mut Vec<usize>,
) {
    let Experts { n, k, .. } = experts;
    let (summed, width) = if flip { (n, k) } else { (k, n) };
    let product_of = |e: usize| {
        let (from, rows) = experts.rows(e);
        let w = &w_enk[e * n * k..][..n * k];
        Product {
            sizes: Sizes { m: rows, n: width, k: summed },
            a: Matrix::rows(&x[from * summed..][..rows * summed], summed),
            b: if flip { Matrix::rows(w, k) } else { Matrix::transposed(w, k) },
            target: Target { first: from * width, pitch: width, add: false },
        }
    };
    products(team, experts.ends_e.len(), product_of, tasks, out);
}

/// `dW_e += sum of dy[r] x[r]^T` over the rows of each expert. `tasks` is scratch memory.
pub(super) fn grouped_matmul_weights(
    team: &Team,
    experts: Experts<'_>,
    dy_rn: &[f32],
    x_rk: &[f32],
    dw_enk: &mut [f32],
    tasks: &mut Vec<usize>,
) {
    let Experts { n, k, .. } = experts;
    let product_of = |e: usize| {
        let (from, rows) = experts.rows(e);
        // An expert without rows has an empty product, which costs nothing.
        let m = if rows == 0 { 0 } else { n };
        Product {
            sizes: Sizes { m, n: k, k: rows },
            a: Matrix::transposed(&dy_rn[from * n..][..rows * n], n),
            b: Matrix::rows(&x_rk[from * k..][..rows * k], k),
            target: Target { first: e * n * k, pitch: k, add: true },
        }
    };
    products(team, experts.ends_e.len(), product_of, tasks, dw_enk);
}
