//! Copies each token's row to where its experts' rows are.

use super::rows_of_a_task;
use super::team::{Chunks, Team};

/// `out[r] = x[order[r] / choices]`.
pub(super) fn dispatch(
    team: &Team,
    d: usize,
    x_td: &[f32],
    order_r: &[i32],
    choices: usize,
    out_rd: &mut [f32],
) {
    let rows = rows_of_a_task(d);
    team.each_piece(Chunks::of(out_rd, rows * d), |task, out| {
        for (out, &choice) in out.chunks_exact_mut(d).zip(&order_r[task * rows..]) {
            out.copy_from_slice(&x_td[choice as usize / choices * d..][..d]);
        }
    });
}
