//! Attention in tiles, forward: a tile of queries meets one tile of keys after the other, keeping a running
//! maximum and sum, so the scores of a sequence never exist.
//!
//! The query heads of one kv head are stacked: row `i * heads + j` of a tile is head j of its i-th token. So
//! they share the packing of the keys, and grouped heads cost nothing extra.
#![allow(unsafe_code)]

use super::gemm::small_product;
use super::kernel::wide;
use super::matrix::{Matrix, Product, Sizes, Target};
use super::micro::PITCH;
use super::operands::{Number, by_kind, floats_mut, numbers, numbers_mut};
use super::scratch::{Scratch, take, with_scratch};
use super::team::{Shares, Team};
use super::vector::{exp, exp_in_place, max};
use crate::boundary::{Boundary, Size};
use crate::error::{Error, Result};
use crate::host::{Element, view};
use crate::op;
use crate::tensor::Tensor;
use std::ops::Range;

/// Keys of a tile.
pub(super) const KEYS: usize = 128;
/// Distance between rows of scores; that of a packed operand, so that products read them where they are.
pub(super) const SCORES_PITCH: usize = PITCH;
/// Rows of a tile of queries, stacked heads included.
const ROWS: usize = 128;

/// Where one more tile of keys, or of queries with one head, begins.
pub(super) const BOUNDARIES: [Boundary; 2] = [
    Boundary::new(op::Attention::NAME, Size::Keys, KEYS + 1),
    Boundary::new(op::Attention::NAME, Size::Keys, 2 * KEYS + 1),
];

/// The sizes and inputs of attention.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a, E> {
    pub(super) q_thc: &'a [E],
    pub(super) k_sgc: &'a [E],
    pub(super) v_sgc: &'a [E],
    pub(super) starts_t: &'a [i32],
    pub(super) scale: f32,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) width: usize,
}

impl<'a, E: Number> Attention<'a, E> {
    /// Errors unless each query sees at least itself.
    pub(super) fn of(
        [q_thc, k_sgc, v_sgc]: [&'a Tensor; 3],
        starts_t: &'a Tensor,
        scale: f64,
    ) -> Result<Attention<'a, E>> {
        let ([tokens, heads, width], [keys, kv_heads, _]) = (q_thc.dims(), k_sgc.dims());
        let starts_t = view::<i32>(starts_t);
        for (t, &start) in starts_t.iter().enumerate() {
            let own = keys - tokens + t;
            if start < 0 || start as usize > own {
                return Err(Error::Value {
                    op: op::Attention::NAME,
                    what: "a start",
                    found: format!("{start} for query {t}"),
                    wanted: format!("0 to {own}"),
                });
            }
        }
        let (q_thc, k_sgc, v_sgc) = (numbers(q_thc)?, numbers(k_sgc)?, numbers(v_sgc)?);
        Ok(Attention { q_thc, k_sgc, v_sgc, starts_t, scale: scale as f32, heads, kv_heads, width })
    }

    pub(super) fn tokens(&self) -> usize {
        self.starts_t.len()
    }

    pub(super) fn keys(&self) -> usize {
        self.k_sgc.len().checked_div(self.kv_heads * self.width).unwrap_or(0)
    }

    /// What stacked queries and scores are multiplied by, which together is the scale. A query that was
    /// scaled would be no bf16 any more.
    pub(super) fn scales(&self) -> [f32; 2] {
        if E::KIND == f32::KIND { [self.scale, 1.0] } else { [1.0, self.scale] }
    }

    /// Query heads of one kv head.
    pub(super) fn stacked(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Tokens of a tile of queries.
    pub(super) fn queries_of_tile(&self) -> usize {
        (ROWS / self.stacked()).max(1)
    }

    /// The keys that query t sees.
    pub(super) fn seen(&self, t: usize) -> Range<usize> {
        self.starts_t[t].max(0) as usize..self.keys() - self.tokens() + t + 1
    }

    /// All keys that any of the queries sees.
    pub(super) fn seen_by(&self, queries: Range<usize>) -> Range<usize> {
        let first = self.starts_t[queries.clone()].iter().min().map_or(0, |&start| start.max(0) as usize);
        first..self.keys() - self.tokens() + queries.end
    }

    /// The first element of `queries`' first head of kv head g, in a tensor shaped as q.
    pub(super) fn first_of_query(&self, t: usize, g: usize) -> usize {
        (t * self.heads + g * self.stacked()) * self.width
    }

    /// Distance between the rows of a tile of queries; that of a packed operand where a row is no longer.
    pub(super) fn pitch(&self) -> usize {
        self.width.max(PITCH)
    }

    /// Copies the rows of a tile of queries, times `scale`, to rows `pitch` apart.
    pub(super) fn stack(&self, from_thc: &[E], queries: Range<usize>, g: usize, scale: f32, to: &mut [f32]) {
        let token = self.stacked() * self.width;
        for (t, to) in queries.zip(to.chunks_mut(self.stacked() * self.pitch())) {
            let from = from_thc[self.first_of_query(t, g)..][..token].chunks_exact(self.width);
            for (to, from) in to.chunks_mut(self.pitch()).zip(from) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = scale * from.wide());
            }
        }
    }

    /// Rows of keys or values of kv head g, from row `from` on.
    pub(super) fn rows<'b>(&self, sgc: &'b [E], from: usize, g: usize) -> (&'b [E], usize) {
        (&sgc[(from * self.kv_heads + g) * self.width..], self.kv_heads * self.width)
    }
}

/// `out` and `lse`. Each task has a tile of queries of one kv head.
pub(super) fn attention(team: &Team, op: &op::Attention<'_>) -> Result<()> {
    by_kind!(op.q_thc, E => attended::<E>(team, op))
}

fn attended<E: Number>(team: &Team, op: &op::Attention<'_>) -> Result<()> {
    let given = Attention::<E>::of([op.q_thc, op.k_sgc, op.v_sgc], op.starts_t, op.scale)?;
    let each = given.queries_of_tile();
    let tiles = given.tokens().div_ceil(each);
    let (out, lse) = (Shares::of(numbers_mut::<E>(op.out_thc)?), Shares::of(floats_mut(op.lse_th)?));
    team.each(tiles * given.kv_heads, |task| {
        // Late tiles see the most keys: they go first.
        let (tile, g) = (tiles - 1 - task / given.kv_heads, task % given.kv_heads);
        let queries = tile * each..((tile + 1) * each).min(given.tokens());
        with_scratch(|scratch| {
            let running = attend(team, given, queries.clone(), g, scratch);
            let stacked = given.stacked();
            for (row, sum) in running.sums.chunks_exact(given.width).enumerate() {
                let (t, j) = (queries.start + row / stacked, row % stacked);
                let (most, total) = (running.most[row], running.totals[row]);
                // SAFETY: these queries and heads are this task's alone, and the pieces are dropped at once.
                let (out, lse) = unsafe {
                    let first = given.first_of_query(t, g) + j * given.width;
                    (out.piece(first, given.width), lse.piece(t * given.heads + g * stacked + j, 1))
                };
                out.iter_mut().zip(sum).for_each(|(out, sum)| *out = E::rounded(sum / total));
                lse[0] = most + total.ln();
            }
        });
    });
    Ok(())
}

/// Running statistics of each row of a tile of queries: the largest score so far, the sum of `e^(score -
/// most)`, and the sum of the values with these weights.
struct Running<'a> {
    most: &'a mut [f32],
    totals: &'a mut [f32],
    sums: &'a mut [f32],
}

/// Runs a tile of queries over all keys that it sees.
fn attend<'a, E: Number>(
    team: &Team,
    given: Attention<'_, E>,
    queries: Range<usize>,
    g: usize,
    scratch: &'a mut Scratch,
) -> Running<'a> {
    let Scratch { packed, tiles: [stacked, most, totals, sums, scores, ..], .. } = scratch;
    let c = given.width;
    let rows = queries.len() * given.stacked();
    let (stacked, scores) = (take(stacked, rows * given.pitch()), take(scores, rows * SCORES_PITCH));
    let running = Running { most: take(most, rows), totals: take(totals, rows), sums: take(sums, rows * c) };
    running.most.fill(f32::NEG_INFINITY);
    running.totals.fill(0.0);
    running.sums.fill(0.0);
    let [of_queries, of_scores] = given.scales();
    given.stack(given.q_thc, queries.clone(), g, of_queries, stacked);
    let seen = given.seen_by(queries.clone());
    for first in seen.clone().step_by(KEYS) {
        let keys = first..(first + KEYS).min(seen.end);
        let (k, pitch) = given.rows(given.k_sgc, first, g);
        let by_key = Product {
            sizes: Sizes { m: rows, n: keys.len(), k: c },
            a: E::factor_of_floats(Matrix::rows(stacked, given.pitch())),
            b: E::factor(Matrix::transposed(k, pitch)),
            target: Target { first: 0, pitch: SCORES_PITCH, add: false },
        };
        small_product(team.kernel, packed, &by_key, scores);
        for (row, scores) in scores.chunks_exact_mut(SCORES_PITCH).enumerate() {
            let visible = within(given.seen(queries.start + row / given.stacked()), &keys);
            let sums = &mut running.sums[row * c..][..c];
            let (most, total) = (&mut running.most[row], &mut running.totals[row]);
            weigh(team.kernel, &mut scores[..keys.len()], visible, of_scores, most, total, sums);
        }
        let (v, pitch) = given.rows(given.v_sgc, first, g);
        let by_value = Product {
            sizes: Sizes { m: rows, n: c, k: keys.len() },
            a: E::factor_of_floats(Matrix::rows(scores, SCORES_PITCH)),
            b: E::factor(Matrix::rows(v, pitch)),
            target: Target { first: 0, pitch: c, add: true },
        };
        small_product(team.kernel, packed, &by_value, running.sums);
    }
    running
}

/// The part of `seen` that lies in `keys`, counted from the first of these; perhaps empty.
pub(super) fn within(seen: Range<usize>, keys: &Range<usize>) -> Range<usize> {
    let from = seen.start.clamp(keys.start, keys.end) - keys.start;
    from..(seen.end.clamp(keys.start, keys.end) - keys.start).max(from)
}

wide! {
    /// Turns one row of scores, yet to be scaled, into weights, relative to a largest score that may grow.
    fn weigh(
        scores: &mut [f32],
        visible: Range<usize>,
        scale: f32,
        most: &mut f32,
        total: &mut f32,
        sums: &mut [f32],
    ) {
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
        if visible.is_empty() {
            return;
        }
        let scores = &mut scores[visible];
        if scale != 1.0 {
            scores.iter_mut().for_each(|score| *score *= scale);
        }
        let tile_most = max(scores);
        if tile_most > *most {
            let shrink = exp(*most - tile_most);
            *total *= shrink;
            sums.iter_mut().for_each(|sum| *sum *= shrink);
            *most = tile_most;
        }
        *total += exp_in_place(scores, *most);
    }
}
