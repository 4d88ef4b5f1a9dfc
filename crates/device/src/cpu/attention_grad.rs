//! The gradient of attention in tiles: the weights of a tile of queries and a tile of keys are computed again
//! from the saved log-sum-exp.
//!
//! Documents make stretches of tokens that do not see each other. Where they divide the work well, each task
//! has one stretch and one kv head, and computes each tile of weights once. Otherwise tiles are divided among
//! tasks, once by queries for `d_q` and once by keys for `d_k` and `d_v`. Which way depends on the documents,
//! never on the threads.
#![allow(unsafe_code)]

use super::TASK_ELEMENTS;
use super::attention::{Attention, KEYS, SCORES_PITCH, within};
use super::elementwise::{cast, set};
use super::gemm::{block, small_product};
use super::kernel::wide;
use super::matrix::{Matrix, Product, Sizes, Target};
use super::operands::{Number, floats, floats_mut, numbers, numbers_mut};
use super::scratch::{Packed, Scratch, take, with_scratch};
use super::team::{Chunks, Shares, Team};
use super::vector::{self, exp};
use super::workspace::Workspace;
use crate::bf16::Bf16;
use crate::error::Result;
use crate::op::AttentionGrad;
use crate::tensor::{Kind, Tensor};
use std::ops::Range;

/// The output and log-sum-exp of the forward op, and the gradient by its output.
#[derive(Clone, Copy)]
struct Saved<'a, E> {
    d_out_thc: &'a [E],
    out_thc: &'a [E],
    lse_th: &'a [f32],
}

/// Where the gradients go.
#[derive(Clone, Copy)]
struct Gradients<'a> {
    d_q_thc: Shares<'a>,
    d_k_sgc: Shares<'a>,
    d_v_sgc: Shares<'a>,
}

/// `d_q`, `d_k`, `d_v`; S = T. Those of bf16 are added up in f32, and rounded once.
pub(super) fn grad(team: &Team, space: &mut Workspace, op: &AttentionGrad<'_>) -> Result<()> {
    let gradients = [op.d_q_thc, op.d_k_sgc, op.d_v_sgc];
    let Workspace { floats, indices, .. } = space;
    if op.q_thc.kind() == Kind::F32 {
        let [d_q, d_k, d_v] = gradients.map(floats_mut);
        return add_up::<f32>(team, indices, op, [d_q?, d_k?, d_v?]);
    }
    let [q_len, k_len, _] = gradients.map(Tensor::len);
    let sums = take(floats, q_len + 2 * k_len);
    let (d_q, rest) = sums.split_at_mut(q_len);
    let (d_k, d_v) = rest.split_at_mut(k_len);
    add_up::<Bf16>(team, indices, op, [&mut *d_q, &mut *d_k, &mut *d_v])?;
    // The keys' are gradients by keys of unscaled queries.
    let scale = op.scale as f32;
    team.each_piece(Chunks::of(&mut *d_k, TASK_ELEMENTS), |_, d_k| d_k.iter_mut().for_each(|d| *d *= scale));
    for (tensor, sums) in gradients.into_iter().zip([d_q, d_k, d_v]) {
        cast::<f32, Bf16>(team, sums, numbers_mut(tensor)?);
    }
    Ok(())
}

fn add_up<E: Number>(
    team: &Team,
    stretches: &mut Vec<usize>,
    op: &AttentionGrad<'_>,
    gradients: [&mut [f32]; 3],
) -> Result<()> {
    let given = Attention::<E>::of([op.q_thc, op.k_sgc, op.v_sgc], op.starts_t, op.scale)?;
    let (d_out_thc, out_thc) = (numbers(op.d_out_thc)?, numbers(op.out_thc)?);
    let saved = Saved { d_out_thc, out_thc, lse_th: floats(op.lse_th)? };
    let [d_q_thc, d_k_sgc, d_v_sgc] = gradients.map(|gradient| {
        set(team, gradient, 0.0);
        Shares::of(gradient)
    });
    let gradients = Gradients { d_q_thc, d_k_sgc, d_v_sgc };
    let groups = given.kv_heads;
    let each = given.queries_of_tile();
    let tokens = given.tokens();
    find_stretches(given.starts_t, stretches);
    if divide_well(stretches, groups) {
        team.each((stretches.len() - 1) * groups, |task| {
            let stretch = stretches[task / groups]..stretches[task / groups + 1];
            let work = Work { given, saved, gradients, g: task % groups };
            // SAFETY: no query outside a stretch sees its keys, and none inside sees others; each is one
            // task's.
            unsafe { work.run(team, stretch.clone(), stretch, Wanted::All) };
        });
        return Ok(());
    }
    let tiles = tokens.div_ceil(each);
    team.each(tiles * groups, |task| {
        let tile = tiles - 1 - task / groups;
        let queries = tile * each..((tile + 1) * each).min(tokens);
        let work = Work { given, saved, gradients, g: task % groups };
        // SAFETY: only `d_q` is written, and these queries are this task's alone.
        unsafe { work.run(team, queries, 0..tokens, Wanted::Queries) };
    });
    team.each(tokens.div_ceil(KEYS) * groups, |task| {
        let keys = task / groups * KEYS..((task / groups + 1) * KEYS).min(tokens);
        let work = Work { given, saved, gradients, g: task % groups };
        // SAFETY: only `d_k` and `d_v` are written, and these keys are this task's alone.
        unsafe { work.run(team, 0..tokens, keys, Wanted::Keys) };
    });
    Ok(())
}

/// The first tokens of stretches that see nothing before themselves, and the end.
fn find_stretches(starts_t: &[i32], stretches: &mut Vec<usize>) {
    stretches.clear();
    stretches.push(starts_t.len());
    let mut earliest = usize::MAX;
    for (t, &start) in starts_t.iter().enumerate().rev() {
        earliest = earliest.min(start.max(0) as usize);
        if earliest >= t {
            stretches.push(t);
        }
    }
    stretches.reverse();
}

/// Whether the largest of the tasks is at most a quarter of the work.
fn divide_well(stretches: &[usize], groups: usize) -> bool {
    let works = stretches.windows(2).map(|pair| (pair[1] - pair[0]).pow(2));
    works.clone().max().is_some_and(|most| 4 * most <= groups * works.sum::<usize>())
}

/// Which gradients a task computes.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    All,
    Queries,
    Keys,
}

/// One kv head's work.
#[derive(Clone, Copy)]
struct Work<'a, E> {
    given: Attention<'a, E>,
    saved: Saved<'a, E>,
    gradients: Gradients<'a>,
    g: usize,
}

/// A tile of queries, heads stacked, with what belongs to its rows.
struct QueryTile<'a> {
    queries: Range<usize>,
    /// The queries, scaled as `Attention::scales` says.
    q: &'a [f32],
    d_out: &'a [f32],
    /// The log-sum-exp of each row, then its `d_out . out`.
    lse: &'a [f32],
    along: &'a [f32],
}

impl<E: Number> Work<'_, E> {
    /// Adds the wanted gradients of `queries` and `keys`, tile by tile.
    ///
    /// # Safety
    /// The wanted gradients of these queries or keys are the caller's alone.
    unsafe fn run(&self, team: &Team, queries: Range<usize>, keys: Range<usize>, wanted: Wanted) {
        let (given, c) = (self.given, self.given.width);
        let each = given.queries_of_tile();
        with_scratch(|scratch| {
            let Scratch { packed, tiles: [q, d_out, lse, along, weights, d_scores, d_q, ..], .. } = scratch;
            for first in queries.clone().step_by(each) {
                let queries = first..(first + each).min(queries.end);
                let seen = given.seen_by(queries.clone());
                let met = within(seen, &keys);
                if met.is_empty() {
                    continue;
                }
                let rows = queries.len() * given.stacked();
                let (q, d_out) = (take(q, rows * given.pitch()), take(d_out, rows * given.pitch()));
                let (lse, along) = (take(lse, rows), take(along, rows));
                self.load(team, queries.clone(), q, d_out, lse, along);
                let tile = QueryTile { queries, q, d_out, lse, along };
                let room = [
                    take(weights, rows * SCORES_PITCH),
                    take(d_scores, rows * SCORES_PITCH),
                    take(d_q, rows * c),
                ];
                // SAFETY: as promised by the caller.
                unsafe {
                    self.meet(team, packed, &tile, keys.start + met.start..keys.start + met.end, wanted, room)
                };
            }
        });
    }

    fn load(
        &self,
        team: &Team,
        queries: Range<usize>,
        q: &mut [f32],
        d_out: &mut [f32],
        lse: &mut [f32],
        along: &mut [f32],
    ) {
        let (given, c) = (self.given, self.given.width);
        let stacked = given.stacked();
        given.stack(given.q_thc, queries.clone(), self.g, given.scales()[0], q);
        given.stack(self.saved.d_out_thc, queries.clone(), self.g, 1.0, d_out);
        for row in 0..along.len() {
            let (t, j) = (queries.start + row / stacked, row % stacked);
            let first = given.first_of_query(t, self.g) + j * c;
            let [d_out, out] = [self.saved.d_out_thc, self.saved.out_thc].map(|thc| &thc[first..][..c]);
            along[row] = dot(team.kernel, d_out, out);
            lse[row] = self.saved.lse_th[t * given.heads + self.g * stacked + j];
        }
    }

    /// A tile of queries with tiles of `keys`, the first of which some query sees.
    ///
    /// # Safety
    /// As for `run`.
    unsafe fn meet(
        &self,
        team: &Team,
        packed: &mut Packed,
        tile: &QueryTile<'_>,
        keys: Range<usize>,
        wanted: Wanted,
        [weights, d_scores, d_q]: [&mut [f32]; 3],
    ) {
        let (given, g, c) = (self.given, self.g, self.given.width);
        let rows = tile.lse.len();
        for first in keys.clone().step_by(KEYS) {
            let part = first..(first + KEYS).min(keys.end);
            self.weigh(team, packed, tile, part.clone(), weights, d_scores);
            let (k, pitch) = given.rows(given.k_sgc, first, g);
            if wanted != Wanted::Keys {
                let by_query = Product {
                    sizes: Sizes { m: rows, n: c, k: part.len() },
                    a: E::factor_of_floats(Matrix::rows(d_scores, SCORES_PITCH)),
                    b: E::factor(Matrix::rows(k, pitch)),
                    target: Target { first: 0, pitch: c, add: first > keys.start },
                };
                small_product(team.kernel, packed, &by_query, d_q);
            }
            if wanted != Wanted::Queries {
                let target = Target { first: (first * given.kv_heads + g) * c, pitch, add: true };
                let sizes = Sizes { m: part.len(), n: c, k: rows };
                let by_key = Product {
                    sizes,
                    a: E::factor_of_floats(Matrix::transposed(d_scores, SCORES_PITCH)),
                    b: E::factor_of_floats(Matrix::rows(tile.q, given.pitch())),
                    target,
                };
                let by_value = Product {
                    a: E::factor_of_floats(Matrix::transposed(weights, SCORES_PITCH)),
                    b: E::factor_of_floats(Matrix::rows(tile.d_out, given.pitch())),
                    ..by_key
                };
                // SAFETY: the gradients of these keys are the caller's alone.
                unsafe {
                    block(team.kernel, packed, &by_key, None, self.gradients.d_k_sgc);
                    block(team.kernel, packed, &by_value, None, self.gradients.d_v_sgc);
                }
            }
        }
        if wanted != Wanted::Keys {
            let token = given.stacked() * c;
            for (t, d_q) in tile.queries.clone().zip(d_q.chunks_exact(token)) {
                // SAFETY: the gradients of these queries are the caller's alone.
                let to = unsafe { self.gradients.d_q_thc.piece(given.first_of_query(t, g), token) };
                to.iter_mut().zip(d_q).for_each(|(to, d_q)| *to += given.scale * d_q);
            }
        }
    }

    /// The attention weights of a tile of queries and a tile of keys, and the gradients by their scores.
    fn weigh(
        &self,
        team: &Team,
        packed: &mut Packed,
        tile: &QueryTile<'_>,
        keys: Range<usize>,
        weights: &mut [f32],
        d_scores: &mut [f32],
    ) {
        let (given, c) = (self.given, self.given.width);
        let products = [(tile.q, given.k_sgc, &mut *weights), (tile.d_out, given.v_sgc, &mut *d_scores)];
        for (rows, sgc, out) in products {
            let (stored, pitch) = given.rows(sgc, keys.start, self.g);
            let by_key = Product {
                sizes: Sizes { m: tile.lse.len(), n: keys.len(), k: c },
                a: E::factor_of_floats(Matrix::rows(rows, given.pitch())),
                b: E::factor(Matrix::transposed(stored, pitch)),
                target: Target { first: 0, pitch: SCORES_PITCH, add: false },
            };
            small_product(team.kernel, packed, &by_key, out);
        }
        let rows = weights.chunks_exact_mut(SCORES_PITCH).zip(d_scores.chunks_exact_mut(SCORES_PITCH));
        for (row, (weights, d_scores)) in rows.enumerate() {
            let t = tile.queries.start + row / given.stacked();
            let visible = within(given.seen(t), &keys);
            let numbers = [given.scales()[1], tile.lse[row], tile.along[row]];
            soften(team.kernel, weights, d_scores, visible, numbers);
        }
    }
}

wide! {
    fn dot<E: Number>(a: &[E], b: &[E]) -> f32 {
        vector::dot([a, b])
    }
}

wide! {
    /// One row: scores become weights, gradients by the weights become gradients by the scores.
    fn soften(
        weights: &mut [f32],
        d_scores: &mut [f32],
        visible: Range<usize>,
        numbers: [f32; 3],
    ) {
        let [scale, lse, along] = numbers;
        for hidden in [0..visible.start, visible.end..KEYS] {
            weights[hidden.clone()].fill(0.0);
            d_scores[hidden].fill(0.0);
        }
        for (weight, d_score) in weights[visible.clone()].iter_mut().zip(&mut d_scores[visible]) {
            *weight = exp(scale * *weight - lse);
            *d_score = *weight * (*d_score - along);
        }
    }
}
