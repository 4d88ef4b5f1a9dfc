//! Adds up the rows that a token's experts made.

use super::kernel::wide;
use super::rows_of_a_task;
use super::team::{Chunks, Team};

/// `out[t] = or += sum over k of x[places[t,k]]`, in order of k.
pub(super) fn combine(team: &Team, d: usize, x_rd: &[f32], places_tk: &[i32], out_td: &mut [f32], add: bool) {
    if d == 0 || out_td.is_empty() {
        return;
    }
    let choices = places_tk.len() / (out_td.len() / d);
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
}

wide! {
    fn accumulate(x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}
