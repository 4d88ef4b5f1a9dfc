//! RMSNorm and its gradient, a row at a time while it is in the first-level cache.

use super::kernel::wide;
use super::operands::{Number, by_kind, floats_mut, numbers, numbers_mut};
use super::rows_of_a_task;
use super::scratch::take;
use super::team::{Chunks, Team};
use super::vector::dot;
use super::workspace::Workspace;
use crate::error::Result;
use crate::op::{RmsNorm, RmsNormGrad};

/// `out = x / sqrt(mean(x^2) + epsilon) * scale`.
pub(super) fn rms_norm(team: &Team, op: &RmsNorm<'_>) -> Result<()> {
    by_kind!(op.x, E => normed::<E>(team, op))
}

fn normed<E: Number>(team: &Team, op: &RmsNorm<'_>) -> Result<()> {
    let (x, scale_d, out) = (numbers::<E>(op.x)?, numbers::<E>(op.scale_d)?, numbers_mut::<E>(op.out)?);
    let epsilon = op.epsilon as f32;
    let each = rows_of_a_task(scale_d.len()) * scale_d.len();
    team.each_piece(Chunks::of(out, each), |task, out| {
        let x = &x[task * each..][..out.len()];
        forward(team.kernel, x, scale_d, epsilon, out);
    });
    Ok(())
}

wide! {
    fn forward<E: Number>(x: &[E], scale_d: &[E], epsilon: f32, out: &mut [E]) {
        let d = scale_d.len();
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let inverse = inverse_rms(x, epsilon);
            for ((out, x), scale) in out.iter_mut().zip(x).zip(scale_d) {
                *out = E::rounded(x.wide() * inverse * scale.wide());
            }
        }
    }
}

#[inline(always)]
fn inverse_rms<E: Number>(x: &[E], epsilon: f32) -> f32 {
    1.0 / (dot([x, x]) / x.len() as f32 + epsilon).sqrt()
}

/// The inputs of the gradient, of all rows or of some.
#[derive(Clone, Copy)]
struct Given<'a, E> {
    d_out: &'a [E],
    x: &'a [E],
    scale_d: &'a [E],
    epsilon: f32,
    add: bool,
}

/// Adds into `d_scale`, and into `d_x` where `add` says so.
///
/// With u = d_out * scale and r = 1 / rms: `d_x = r u - x r^3 mean(u x)`, `d_scale = sum of d_out x r`.
pub(super) fn grad(team: &Team, space: &mut Workspace, op: &RmsNormGrad<'_>) -> Result<()> {
    by_kind!(op.x, E => gradients::<E>(team, space, op))
}

fn gradients<E: Number>(team: &Team, space: &mut Workspace, op: &RmsNormGrad<'_>) -> Result<()> {
    let (d_out, x, scale_d) = (numbers::<E>(op.d_out)?, numbers::<E>(op.x)?, numbers::<E>(op.scale_d)?);
    let given = Given { d_out, x, scale_d, epsilon: op.epsilon as f32, add: op.add };
    let (d_x, d_scale_d) = (numbers_mut::<E>(op.d_x)?, floats_mut(op.d_scale_d)?);
    let d = scale_d.len();
    if d == 0 {
        return Ok(());
    }
    let each = rows_of_a_task(d) * d;
    // Each task's own sum of d_scale, added in order of the tasks.
    let sums = take(&mut space.floats, d_x.len().div_ceil(each) * d);
    team.each_piece((Chunks::of(d_x, each), Chunks::of(&mut *sums, d)), |task, (d_x, sums)| {
        let from = task * each;
        let (d_out, x) = (&given.d_out[from..][..d_x.len()], &given.x[from..][..d_x.len()]);
        backward(team.kernel, Given { d_out, x, ..given }, d_x, sums);
    });
    for sums in sums.chunks_exact(d) {
        for (d_scale, sum) in d_scale_d.iter_mut().zip(sums) {
            *d_scale += sum;
        }
    }
    Ok(())
}

wide! {
    fn backward<E: Number>(given: Given<'_, E>, d_x: &mut [E], sums: &mut [f32]) {
        let Given { d_out, x, scale_d, epsilon, add } = given;
        let d = scale_d.len();
        sums.fill(0.0);
        for ((d_out, x), d_x) in d_out.chunks_exact(d).zip(x.chunks_exact(d)).zip(d_x.chunks_exact_mut(d)) {
            let inverse = inverse_rms(x, epsilon);
            let along = dot([d_out, scale_d, x]);
            let back = inverse * inverse * inverse * along / d as f32;
            let (d_out, x, scale_d) = (&d_out[..d], &x[..d], &scale_d[..d]);
            let (sums, d_x) = (&mut sums[..d], &mut d_x[..d]);
            for i in 0..d {
                sums[i] += d_out[i].wide() * x[i].wide() * inverse;
            }
            if add {
                for i in 0..d {
                    let d = inverse * d_out[i].wide() * scale_d[i].wide() - x[i].wide() * back;
                    d_x[i] = E::rounded(d_x[i].wide() + d);
                }
            } else {
                for i in 0..d {
                    let d = inverse * d_out[i].wide() * scale_d[i].wide() - x[i].wide() * back;
                    d_x[i] = E::rounded(d);
                }
            }
        }
    }
}
