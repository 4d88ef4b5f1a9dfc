//! Embedding and its gradient.

use super::operands::{Number, below, by_kind, floats_mut, numbers, numbers_mut};
use super::rows_of_a_task;
use super::team::{Chunks, Shares, Team};
use crate::error::Result;
use crate::op;

/// `out[t] = table[tokens[t]]`.
pub(super) fn embedding(team: &Team, op: &op::Embedding<'_>) -> Result<()> {
    by_kind!(op.table_vd, E => looked_up::<E>(team, op))
}

fn looked_up<E: Number>(team: &Team, op: &op::Embedding<'_>) -> Result<()> {
    let (v, d) = op.table_vd.rows_and_width();
    let tokens_t = below(op::Embedding::NAME, "a token", op.tokens_t, 0, v)?;
    let (table_vd, out_td) = (numbers::<E>(op.table_vd)?, numbers_mut::<E>(op.out_td)?);
    let rows = rows_of_a_task(d);
    team.each_piece(Chunks::of(out_td, rows * d), |task, out| {
        for (out, &token) in out.chunks_exact_mut(d.max(1)).zip(&tokens_t[task * rows..]) {
            out.copy_from_slice(&table_vd[token as usize * d..][..d]);
        }
    });
    Ok(())
}

/// `d_table[tokens[t]] += d_out[t]`, in order of t. Each task has some columns of the whole table.
pub(super) fn grad(team: &Team, op: &op::EmbeddingGrad<'_>) -> Result<()> {
    by_kind!(op.d_out_td, E => added_rows::<E>(team, op))
}

#[allow(unsafe_code)]
fn added_rows<E: Number>(team: &Team, op: &op::EmbeddingGrad<'_>) -> Result<()> {
    const COLUMNS: usize = 64;
    let (v, d) = op.d_table_vd.rows_and_width();
    let tokens_t = below(op::EmbeddingGrad::NAME, "a token", op.tokens_t, 0, v)?;
    let (d_out_td, shares) = (numbers::<E>(op.d_out_td)?, Shares::of(floats_mut(op.d_table_vd)?));
    team.each(d.div_ceil(COLUMNS), |task| {
        let from = task * COLUMNS;
        let columns = COLUMNS.min(d - from);
        for (t, &token) in tokens_t.iter().enumerate() {
            // SAFETY: these columns are this task's alone, and the last piece is no longer in use.
            let to = unsafe { shares.piece(token as usize * d + from, columns) };
            for (to, x) in to.iter_mut().zip(&d_out_td[t * d + from..][..columns]) {
                *to += x.wide();
            }
        }
    });
    Ok(())
}
