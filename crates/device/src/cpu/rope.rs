//! RoPE, in place. Sines and cosines are kept in a table, which grows with the positions seen.

use super::kernel::wide;
use super::operands::{Number, by_kind, numbers_mut};
use super::rows_of_a_task;
use super::team::{Chunks, Team};
use super::workspace::{Workspace, push_angles};
use crate::error::Result;
use crate::host::view;
use crate::op::Rope;

/// Positions up to this one are kept in the table; beyond, angles are computed anew each time.
const MOST_KEPT: usize = 1 << 16;

/// Rotates the pairs (i, i + rotary/2) of each head by `position * theta^(-2i/rotary)`.
pub(super) fn rope(team: &Team, space: &mut Workspace, op: &Rope<'_>) -> Result<()> {
    by_kind!(op.x_thc, E => rotated::<E>(team, space, op))
}

fn rotated<E: Number>(team: &Team, space: &mut Workspace, op: &Rope<'_>) -> Result<()> {
    let Rope { rotary_width, theta, back, .. } = *op;
    let [_, heads, head_width] = op.x_thc.dims();
    let (x_thc, positions_t) = (numbers_mut::<E>(op.x_thc)?, view::<i32>(op.positions_t));
    let token = heads * head_width;
    if rotary_width == 0 || token == 0 {
        return Ok(());
    }
    let last = positions_t.iter().max().map_or(0, |&position| position.max(0) as usize);
    space.rope.reach(rotary_width, theta, (last + 1).min(MOST_KEPT));
    let rows = rows_of_a_task(token);
    let table = &space.rope;
    team.each_piece(Chunks::of(x_thc, rows * token), |task, x| {
        let mut fresh = Vec::new();
        for (x, &position) in x.chunks_exact_mut(token).zip(&positions_t[task * rows..]) {
            let angles = match table.at(position) {
                Some(angles) => angles,
                None => {
                    fresh.clear();
                    push_angles(&mut fresh, rotary_width, theta, f64::from(position));
                    &fresh
                }
            };
            rotate(team.kernel, x, head_width, angles, back);
        }
    });
    Ok(())
}

wide! {
    fn rotate<E: Number>(x: &mut [E], head_width: usize, angles: &[f32], back: bool) {
        let half = angles.len() / 2;
        let (cosines, sines) = angles.split_at(half);
        let sign = if back { -1.0 } else { 1.0 };
        for head in x.chunks_exact_mut(head_width) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), &cosine), &sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
                let (a, b, sine) = (low.wide(), high.wide(), sign * sine);
                *low = E::rounded(a * cosine - b * sine);
                *high = E::rounded(b * cosine + a * sine);
            }
        }
    }
}
