//! NormHead: the scales that give the head's columns norm one, and their use.

use super::kernel::wide;
use super::operands::{Number, by_kind, floats, floats_mut, numbers, numbers_mut};
use super::rows_of_a_task;
use super::team::{Chunks, Team};
use crate::error::Result;
use crate::op::{ColumnScales, ScaleColumns};

/// `out[d] = 1 / (||w[:,d]||_2 + 1e-7)`. Each task has some columns.
pub(super) fn column_scales(team: &Team, op: &ColumnScales<'_>) -> Result<()> {
    by_kind!(op.w_vd, E => scales_of::<E>(team, op))
}

fn scales_of<E: Number>(team: &Team, op: &ColumnScales<'_>) -> Result<()> {
    const COLUMNS: usize = 32;
    let (w_vd, out_d) = (numbers::<E>(op.w_vd)?, floats_mut(op.out_d)?);
    let d = out_d.len();
    team.each_piece(Chunks::of(out_d, COLUMNS), |task, out| {
        scales(team.kernel, &w_vd[task * COLUMNS..], d, out)
    });
    Ok(())
}

wide! {
    fn scales<E: Number>(w: &[E], pitch: usize, out: &mut [f32]) {
        let mut squares = [0.0_f64; 32];
        for row in w.chunks(pitch) {
            for (square, w) in squares.iter_mut().zip(&row[..out.len().min(row.len())]) {
                *square += f64::from(w.wide()) * f64::from(w.wide());
            }
        }
        for (out, square) in out.iter_mut().zip(squares) {
            *out = (1.0 / (square.sqrt() + 1e-7)) as f32;
        }
    }
}

/// `out[t,d] = x[t,d] scales[d]`.
pub(super) fn scale_columns(team: &Team, op: &ScaleColumns<'_>) -> Result<()> {
    by_kind!(op.x_td, E => scaled::<E>(team, op))
}

fn scaled<E: Number>(team: &Team, op: &ScaleColumns<'_>) -> Result<()> {
    let (x_td, out_td) = (numbers::<E>(op.x_td)?, numbers_mut::<E>(op.out_td)?);
    let scales_d = floats(op.scales_d)?;
    let each = rows_of_a_task(scales_d.len()) * scales_d.len();
    team.each_piece(Chunks::of(out_td, each), |task, out| {
        multiply(team.kernel, &x_td[task * each..][..out.len()], scales_d, out);
    });
    Ok(())
}

wide! {
    fn multiply<E: Number>(x: &[E], scales_d: &[f32], out: &mut [E]) {
        for (x, out) in x.chunks_exact(scales_d.len()).zip(out.chunks_exact_mut(scales_d.len())) {
            for ((out, x), scale) in out.iter_mut().zip(x).zip(scales_d) {
                *out = E::rounded(x.wide() * scale);
            }
        }
    }
}
