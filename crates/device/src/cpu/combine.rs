//! Adds up the rows that a token's experts made.

use super::kernel::wide;
use super::operands::{Number, below, by_kind, numbers, numbers_mut};
use super::rows_of_a_task;
use super::team::{Chunks, Team};
use crate::error::Result;
use crate::op::Combine;

/// `out[t] = or += sum over k of x[places[t,k]]`, in order of k.
pub(super) fn combine(team: &Team, op: &Combine<'_>) -> Result<()> {
    by_kind!(op.out_td, E => combined::<E>(team, op))
}

fn combined<E: Number>(team: &Team, op: &Combine<'_>) -> Result<()> {
    let add = op.add;
    let (x_rows, d) = op.x_rd.rows_and_width();
    let places_tk = below(Combine::NAME, "a place", op.places_tk, 0, x_rows)?;
    let choices = op.places_tk.rows_and_width().1;
    let (x_rd, out_td) = (numbers::<E>(op.x_rd)?, numbers_mut::<E>(op.out_td)?);
    if d == 0 || out_td.is_empty() {
        return Ok(());
    }
    let rows = rows_of_a_task(d);
    team.each_piece(Chunks::of(out_td, rows * d), |task, out| {
        for (index, out) in out.chunks_exact_mut(d).enumerate() {
            let places = &places_tk[(task * rows + index) * choices..][..choices];
            sum(team.kernel, x_rd, places, add, out);
        }
    });
    Ok(())
}

/// Columns whose sums are held in registers.
const COLUMNS: usize = 64;

wide! {
    /// One token's row: the rows of `x` at its places, added up in f32.
    fn sum<E: Number>(x: &[E], places: &[i32], add: bool, out: &mut [E]) {
        let d = out.len();
        let (blocks, rest) = out.as_chunks_mut::<COLUMNS>();
        let whole = blocks.len() * COLUMNS;
        for (block, out) in blocks.iter_mut().enumerate() {
            let mut sums = if add { out.map(E::wide) } else { [0.0; COLUMNS] };
            for &place in places {
                let x = &x[place as usize * d + block * COLUMNS..][..COLUMNS];
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum += x.wide();
                }
            }
            *out = sums.map(E::rounded);
        }
        for (column, out) in rest.iter_mut().enumerate() {
            let start = if add { out.wide() } else { 0.0 };
            let of_place = |&place: &i32| x[place as usize * d + whole + column].wide();
            *out = E::rounded(places.iter().map(of_place).fold(start, |sum, x| sum + x));
        }
    }
}
