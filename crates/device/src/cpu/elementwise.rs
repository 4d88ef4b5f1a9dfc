//! Add, copy, fill.

use super::TASK_ELEMENTS;
use super::kernel::wide;
use super::team::{Chunks, Team};

/// `out += x`.
pub(super) fn add(team: &Team, x: &[f32], out: &mut [f32]) {
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |task, out| {
        plus(team.kernel, &x[task * TASK_ELEMENTS..][..out.len()], out);
    });
}

wide! {
    fn plus(x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}

/// `out = x`, each element through `convert`.
pub(super) fn copy<X: Copy + Sync, Y: Send>(
    team: &Team,
    x: &[X],
    out: &mut [Y],
    convert: impl Fn(X) -> Y + Sync,
) {
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |task, out| {
        for (out, &x) in out.iter_mut().zip(&x[task * TASK_ELEMENTS..]) {
            *out = convert(x);
        }
    });
}

/// Every element becomes `value`.
pub(super) fn fill<T: Copy + Send + Sync>(team: &Team, out: &mut [T], value: T) {
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |_, out| out.fill(value));
}
