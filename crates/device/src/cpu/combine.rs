//! Adds up the rows that a token's experts made.

use super::kernel::wide;
use super::operands::{below, floats, floats_mut};
use super::rows_of_a_task;
use super::team::{Chunks, Team};
use crate::error::Result;
use crate::op::Combine;

/// `out[t] = or += sum over k of x[places[t,k]]`, in order of k.
pub(super) fn combine(team: &Team, op: &Combine<'_>) -> Result<()> {
    let add = op.add;
    let (x_rows, d) = op.x_rd.rows_and_width();
    let places_tk = below(Combine::NAME, "a place", op.places_tk, 0, x_rows)?;
    let choices = op.places_tk.rows_and_width().1;
    let (x_rd, out_td) = (floats(op.x_rd)?, floats_mut(op.out_td)?);
    if d == 0 || out_td.is_empty() {
        return Ok(());
    }
    let rows = rows_of_a_task(d);
    team.each_piece(Chunks::of(out_td, rows * d), |task, out| {
        for (index, out) in out.chunks_exact_mut(d).enumerate() {
            let places = &places_tk[(task * rows + index) * choices..][..choices];
            if !add {
                out.fill(0.0);
            }
            for &place in places {
                accumulate(team.kernel, &x_rd[place as usize * d..][..d], out);
            }
        }
    });
    Ok(())
}

wide! {
    fn accumulate(x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}
