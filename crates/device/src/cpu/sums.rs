//! Sums over whole tensors, in f64: each task sums its piece in lanes, and the pieces are added in their
//! order.

use super::TASK_ELEMENTS;
use super::kernel::wide;
use super::operands::{Number, by_kind, floats_mut, numbers};
use super::scratch::take;
use super::team::{Chunks, Team};
use super::workspace::Workspace;
use crate::error::Result;
use crate::op::{Moments, SumOfSquares};

const LANES: usize = 16;

/// `out[0] += sum of x^2`.
pub(super) fn sum_of_squares(team: &Team, space: &mut Workspace, op: &SumOfSquares<'_>) -> Result<()> {
    let [_, squares] = by_kind!(op.x, E => sums::<E>(team, numbers(op.x)?, &mut space.doubles));
    add_to(&mut floats_mut(op.out_1)?[0], squares);
    Ok(())
}

/// `out[0] += sum of x`, `out[1] += sum of x^2`.
pub(super) fn moments(team: &Team, space: &mut Workspace, op: &Moments<'_>) -> Result<()> {
    let sums = by_kind!(op.x, E => sums::<E>(team, numbers(op.x)?, &mut space.doubles));
    floats_mut(op.out_2)?.iter_mut().zip(sums).for_each(|(out, sum)| add_to(out, sum));
    Ok(())
}

fn add_to(out: &mut f32, sum: f64) {
    *out = (f64::from(*out) + sum) as f32;
}

/// The sums of x and of x^2. `partial` is scratch memory.
fn sums<E: Number>(team: &Team, x: &[E], partial: &mut Vec<f64>) -> [f64; 2] {
    let partial = take(partial, 2 * x.len().div_ceil(TASK_ELEMENTS));
    team.each_piece(Chunks::of(&mut *partial, 2), |task, sums| {
        let from = task * TASK_ELEMENTS;
        piece(team.kernel, &x[from..(from + TASK_ELEMENTS).min(x.len())], sums);
    });
    partial.chunks_exact(2).fold([0.0; 2], |[sum, squares], piece| [sum + piece[0], squares + piece[1]])
}

wide! {
    fn piece<E: Number>(x: &[E], sums: &mut [f64]) {
        let mut lanes = [[0.0_f64; LANES]; 2];
        let (lines, rest) = x.as_chunks::<LANES>();
        for line in lines {
            for lane in 0..LANES {
                let x = f64::from(line[lane].wide());
                lanes[0][lane] += x;
                lanes[1][lane] += x * x;
            }
        }
        for (lane, x) in rest.iter().enumerate() {
            let x = f64::from(x.wide());
            lanes[0][lane] += x;
            lanes[1][lane] += x * x;
        }
        sums[0] = lanes[0].iter().sum();
        sums[1] = lanes[1].iter().sum();
    }
}
