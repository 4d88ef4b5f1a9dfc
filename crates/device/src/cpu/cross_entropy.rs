//! The head and its cross-entropy together, some tokens at a time, so that the logits of a batch never exist.

use super::elementwise::set;
use super::gemm::product;
use super::kernel::wide;
use super::matrix::{Matrix, Product, Sizes, Target};
use super::operands::{Number, below, by_kind, floats_mut, numbers, numbers_mut};
use super::scratch::take;
use super::team::{Chunks, Team};
use super::vector::{exp_in_place, max};
use super::workspace::Workspace;
use crate::boundary::{Boundary, Size};
use crate::error::Result;
use crate::op::{CrossEntropy, CrossEntropyGrad};
use crate::tensor::Tensor;

/// The most logits that exist at a time, unless `TOKENS` demands more: 16 MiB.
const MOST_LOGITS: usize = 1 << 22;
/// The fewest and the most tokens at a time.
const TOKENS: std::ops::RangeInclusive<usize> = 64..=512;

/// Where the logits of a small batch no longer exist all at once.
pub(super) const BOUNDARY: Boundary = Boundary::new(CrossEntropy::NAME, Size::Logits, MOST_LOGITS + 1);

/// The operands: x [T, D], w [V, D], targets [T].
#[derive(Clone, Copy)]
struct Head<'a, E> {
    d: usize,
    x_td: &'a [E],
    w_vd: &'a [E],
    targets_t: &'a [i32],
}

impl<'a, E: Number> Head<'a, E> {
    fn of(
        op: &'static str,
        x_td: &'a Tensor,
        w_vd: &'a Tensor,
        targets_t: &'a Tensor,
    ) -> Result<Head<'a, E>> {
        let (v, d) = w_vd.rows_and_width();
        let targets_t = below(op, "a target", targets_t, -1, v)?;
        Ok(Head { d, x_td: numbers(x_td)?, w_vd: numbers(w_vd)?, targets_t })
    }

    fn vocabulary(&self) -> usize {
        self.w_vd.len() / self.d.max(1)
    }

    fn tokens_at_a_time(&self) -> usize {
        (MOST_LOGITS / self.vocabulary().max(1)).clamp(*TOKENS.start(), *TOKENS.end())
    }
}

/// `losses[t] = logsumexp(w x[t]) - (w x[t])[target]`.
pub(super) fn cross_entropy(team: &Team, space: &mut Workspace, op: &CrossEntropy<'_>) -> Result<()> {
    by_kind!(op.x_td, E => losses::<E>(team, space, op))
}

fn losses<E: Number>(team: &Team, space: &mut Workspace, op: &CrossEntropy<'_>) -> Result<()> {
    let head = Head::<E>::of(CrossEntropy::NAME, op.x_td, op.w_vd, op.targets_t)?;
    let v = head.vocabulary();
    let each = head.tokens_at_a_time();
    for (chunk, losses) in floats_mut(op.losses_t)?.chunks_mut(each).enumerate() {
        let logits = take(&mut space.floats, losses.len() * v);
        let targets = &head.targets_t[chunk * each..][..losses.len()];
        multiply(team, head, chunk * each, losses.len(), logits);
        team.each_piece((Chunks::of(logits, v), Chunks::of(losses, 1)), |t, (logits, loss)| {
            loss[0] = one_loss(team.kernel, logits, targets[t]);
        });
    }
    Ok(())
}

/// As `cross_entropy`, and the gradient of `scale` x the sum of the losses; writes `d_w` or adds to it.
pub(super) fn grad(team: &Team, space: &mut Workspace, op: &CrossEntropyGrad<'_>) -> Result<()> {
    by_kind!(op.x_td, E => gradients::<E>(team, space, op))
}

fn gradients<E: Number>(team: &Team, space: &mut Workspace, op: &CrossEntropyGrad<'_>) -> Result<()> {
    let head = Head::<E>::of(CrossEntropyGrad::NAME, op.x_td, op.w_vd, op.targets_t)?;
    let (d_x_td, d_w_vd) = (numbers_mut::<E>(op.d_x_td)?, floats_mut(op.d_w_vd)?);
    if op.x_td.is_empty() && !op.add {
        set(team, d_w_vd, 0.0);
    }
    let scale = op.scale as f32;
    let (v, d) = (head.vocabulary(), head.d);
    let each = head.tokens_at_a_time();
    for (chunk, losses) in floats_mut(op.losses_t)?.chunks_mut(each).enumerate() {
        let (first, tokens) = (chunk * each, losses.len());
        let logits = take(&mut space.floats, tokens * v);
        let targets = &head.targets_t[first..][..tokens];
        multiply(team, head, first, tokens, logits);
        team.each_piece((Chunks::of(&mut *logits, v), Chunks::of(losses, 1)), |t, (logits, loss)| {
            loss[0] = one_gradient(team.kernel, logits, targets[t], scale);
        });
        let logits = &*logits;
        let by_x = Product {
            sizes: Sizes { m: tokens, n: d, k: v },
            a: E::factor_of_floats(Matrix::rows(logits, v)),
            b: E::factor(Matrix::rows(head.w_vd, d)),
            target: Target { first: 0, pitch: d, add: false },
        };
        product(team, by_x, &mut d_x_td[first * d..][..tokens * d]);
        let by_w = Product {
            sizes: Sizes { m: v, n: d, k: tokens },
            a: E::factor_of_floats(Matrix::transposed(logits, v)),
            b: E::factor(Matrix::rows(&head.x_td[first * d..][..tokens * d], d)),
            target: Target { first: 0, pitch: d, add: op.add || chunk > 0 },
        };
        product(team, by_w, d_w_vd);
    }
    Ok(())
}

/// The logits of `tokens` tokens from `first` on.
fn multiply<E: Number>(team: &Team, head: Head<'_, E>, first: usize, tokens: usize, logits: &mut [f32]) {
    let (v, d) = (head.vocabulary(), head.d);
    let by_token = Product {
        sizes: Sizes { m: tokens, n: v, k: d },
        a: E::factor(Matrix::rows(&head.x_td[first * d..][..tokens * d], d)),
        b: E::factor(Matrix::transposed(head.w_vd, d)),
        target: Target { first: 0, pitch: v, add: false },
    };
    product(team, by_token, logits);
}

wide! {
    /// The loss of one token; its logits are overwritten.
    fn one_loss(logits: &mut [f32], target: i32) -> f32 {
        if target < 0 {
            return 0.0;
        }
        let hit = logits[target as usize];
        let most = max(logits);
        // In this order the large parts cancel first.
        (most - hit) + exp_in_place(logits, most).ln()
    }
}

wide! {
    /// The loss of one token; its logits become `scale (softmax - hit)`.
    fn one_gradient(logits: &mut [f32], target: i32, scale: f32) -> f32 {
        if target < 0 {
            logits.fill(0.0);
            return 0.0;
        }
        let hit = logits[target as usize];
        let most = max(logits);
        let sum = exp_in_place(logits, most);
        let factor = scale / sum;
        logits.iter_mut().for_each(|logit| *logit *= factor);
        logits[target as usize] -= scale;
        (most - hit) + sum.ln()
    }
}
