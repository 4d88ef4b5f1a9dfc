//! Copies each token's row to where its experts' rows are.

use super::operands::{Number, below, by_kind, numbers, numbers_mut};
use super::rows_of_a_task;
use super::team::{Chunks, Team};
use crate::error::Result;
use crate::op::Dispatch;

/// `out[r] = x[order[r] / choices]`.
pub(super) fn dispatch(team: &Team, op: &Dispatch<'_>) -> Result<()> {
    by_kind!(op.x_td, E => dispatched::<E>(team, op))
}

fn dispatched<E: Number>(team: &Team, op: &Dispatch<'_>) -> Result<()> {
    let choices = op.choices;
    let (tokens, d) = op.x_td.rows_and_width();
    let order_r = below(Dispatch::NAME, "a choice", op.order_r, 0, tokens * choices)?;
    let (x_td, out_rd) = (numbers::<E>(op.x_td)?, numbers_mut::<E>(op.out_rd)?);
    let rows = rows_of_a_task(d);
    team.each_piece(Chunks::of(out_rd, rows * d), |task, out| {
        for (out, &choice) in out.chunks_exact_mut(d).zip(&order_r[task * rows..]) {
            out.copy_from_slice(&x_td[choice as usize / choices * d..][..d]);
        }
    });
    Ok(())
}
