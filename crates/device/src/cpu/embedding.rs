//! Embedding and its gradient.

use super::rows_of_a_task;
use super::team::{Chunks, Shares, Team};

/// `out[t] = table[tokens[t]]`; the tokens were checked.
pub(super) fn embedding(team: &Team, table_vd: &[f32], tokens_t: &[i32], d: usize, out_td: &mut [f32]) {
    let rows = rows_of_a_task(d);
    team.each_piece(Chunks::of(out_td, rows * d), |task, out| {
        for (out, &token) in out.chunks_exact_mut(d.max(1)).zip(&tokens_t[task * rows..]) {
            out.copy_from_slice(&table_vd[token as usize * d..][..d]);
        }
    });
}

/// `d_table[tokens[t]] += d_out[t]`, in order of t. Each task has some columns of the whole table.
#[allow(unsafe_code)]
pub(super) fn embedding_grad(
    team: &Team,
    d_out_td: &[f32],
    tokens_t: &[i32],
    d: usize,
    d_table_vd: &mut [f32],
) {
    const COLUMNS: usize = 64;
    let shares = Shares::of(d_table_vd);
    team.each(d.div_ceil(COLUMNS), |task| {
        let from = task * COLUMNS;
        let columns = COLUMNS.min(d - from);
        for (t, &token) in tokens_t.iter().enumerate() {
            // SAFETY: these columns are this task's alone, and the last piece is no longer in use.
            let to = unsafe { shares.piece(token as usize * d + from, columns) };
            for (to, x) in to.iter_mut().zip(&d_out_td[t * d + from..][..columns]) {
                *to += x;
            }
        }
    });
}
