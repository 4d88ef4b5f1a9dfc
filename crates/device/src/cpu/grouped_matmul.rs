//! Grouped matrix product: every expert's rows times its matrix, all experts in one parallel loop.

use super::gemm::products;
use super::matrix::{Matrix, Product, Sizes, Target};
use super::operands::{Number, by_kind, floats_mut, numbers, numbers_mut};
use super::team::Team;
use super::workspace::Workspace;
use crate::error::{Error, Result};
use crate::host::view;
use crate::op::{GroupedMatMul, GroupedMatMulWeights};
use crate::tensor::Tensor;

/// Sizes of a grouped product: E matrices of N x K.
#[derive(Clone, Copy)]
struct Experts<'a> {
    ends_e: &'a [i32],
    n: usize,
    k: usize,
}

impl<'a> Experts<'a> {
    /// Errors unless the ends rise from 0 to at most the number of rows of `x`.
    fn of(ends_e: &'a Tensor, w_enk: &Tensor, x: &Tensor) -> Result<Experts<'a>> {
        let ends_e = view::<i32>(ends_e);
        let rows = x.shape()[0];
        let rise = ends_e.is_sorted() && ends_e.first().is_none_or(|&end| end >= 0);
        if !rise || ends_e.last().is_some_and(|&end| end as usize > rows) {
            return Err(Error::Value {
                op: GroupedMatMul::NAME,
                what: "ends",
                found: format!("{ends_e:?}"),
                wanted: format!("rising from 0 to at most {rows}"),
            });
        }
        let [_, n, k] = w_enk.dims();
        Ok(Experts { ends_e, n, k })
    }

    /// The first row of expert `e`, and how many are its own.
    fn rows(&self, e: usize) -> (usize, usize) {
        let from = if e == 0 { 0 } else { self.ends_e[e - 1].max(0) as usize };
        (from, (self.ends_e[e].max(0) as usize).saturating_sub(from))
    }
}

/// Forward `out[r] = W_e x[r]`, or with `flip` `out[r] = x[r] W_e`.
pub(super) fn grouped_matmul(team: &Team, space: &mut Workspace, op: &GroupedMatMul<'_>) -> Result<()> {
    by_kind!(op.x, E => by_expert::<E>(team, space, op))
}

fn by_expert<E: Number>(team: &Team, space: &mut Workspace, op: &GroupedMatMul<'_>) -> Result<()> {
    let experts = Experts::of(op.ends_e, op.w_enk, op.x)?;
    let (x, w_enk, out) = (numbers::<E>(op.x)?, numbers::<E>(op.w_enk)?, numbers_mut::<E>(op.out)?);
    let Experts { n, k, .. } = experts;
    let (summed, width) = if op.flip { (n, k) } else { (k, n) };
    let product_of = |e: usize| {
        let (from, rows) = experts.rows(e);
        let w = &w_enk[e * n * k..][..n * k];
        Product {
            sizes: Sizes { m: rows, n: width, k: summed },
            a: E::factor(Matrix::rows(&x[from * summed..][..rows * summed], summed)),
            b: E::factor(if op.flip { Matrix::rows(w, k) } else { Matrix::transposed(w, k) }),
            target: Target { first: from * width, pitch: width, add: false },
        }
    };
    products(team, experts.ends_e.len(), product_of, &mut space.indices, out);
    Ok(())
}

/// `dW_e = or += sum of dy[r] x[r]^T` over the rows of each expert.
pub(super) fn weights(team: &Team, space: &mut Workspace, op: &GroupedMatMulWeights<'_>) -> Result<()> {
    by_kind!(op.x_rk, E => weights_by_expert::<E>(team, space, op))
}

fn weights_by_expert<E: Number>(
    team: &Team,
    space: &mut Workspace,
    op: &GroupedMatMulWeights<'_>,
) -> Result<()> {
    let experts = Experts::of(op.ends_e, op.dw_enk, op.x_rk)?;
    let (dy_rn, x_rk, dw_enk) = (numbers::<E>(op.dy_rn)?, numbers::<E>(op.x_rk)?, floats_mut(op.dw_enk)?);
    let Experts { n, k, .. } = experts;
    let product_of = |e: usize| {
        let (from, rows) = experts.rows(e);
        // An expert without rows adds nothing, which costs nothing.
        let m = if rows == 0 && op.add { 0 } else { n };
        Product {
            sizes: Sizes { m, n: k, k: rows },
            a: E::factor(Matrix::transposed(&dy_rn[from * n..][..rows * n], n)),
            b: E::factor(Matrix::rows(&x_rk[from * k..][..rows * k], k)),
            target: Target { first: e * n * k, pitch: k, add: op.add },
        }
    };
    products(team, experts.ends_e.len(), product_of, &mut space.indices, dw_enk);
    Ok(())
}
