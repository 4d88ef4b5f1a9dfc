//! Add, copy, fill.

use super::TASK_ELEMENTS;
use super::kernel::wide;
use super::operands::{Number, by_kind, numbers, numbers_mut};
use super::team::{Chunks, Team};
use crate::bf16::Bf16;
use crate::error::{Error, Result};
use crate::host::{view, view_mut};
use crate::op;
use crate::tensor::Kind;

/// `out += x`.
pub(super) fn add(team: &Team, op: &op::Add<'_>) -> Result<()> {
    by_kind!(op.out, E => added::<E>(team, op))
}

fn added<E: Number>(team: &Team, op: &op::Add<'_>) -> Result<()> {
    let (x, out) = (numbers::<E>(op.x)?, numbers_mut::<E>(op.out)?);
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |task, out| {
        plus(team.kernel, &x[task * TASK_ELEMENTS..][..out.len()], out);
    });
    Ok(())
}

wide! {
    fn plus<E: Number>(x: &[E], out: &mut [E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = E::rounded(out.wide() + x.wide());
        }
    }
}

/// `out = x`, converted between kinds of floats where they differ.
pub(super) fn copy(team: &Team, op: &op::Copy<'_>) -> Result<()> {
    let op::Copy { x, out } = *op;
    match (x.kind(), out.kind()) {
        (Kind::F32, Kind::F32) => convert(team, view::<f32>(x), view_mut::<f32>(out), |x| x),
        (Kind::F64, Kind::F64) => convert(team, view::<f64>(x), view_mut::<f64>(out), |x| x),
        (Kind::I32, Kind::I32) => convert(team, view::<i32>(x), view_mut::<i32>(out), |x| x),
        (Kind::F32, Kind::F64) => convert(team, view::<f32>(x), view_mut::<f64>(out), f64::from),
        (Kind::F64, Kind::F32) => convert(team, view::<f64>(x), view_mut::<f32>(out), |x| x as f32),
        (Kind::Bf16, Kind::Bf16) => convert(team, view::<Bf16>(x), view_mut::<Bf16>(out), |x| x),
        (Kind::F64, Kind::Bf16) => convert(team, view::<f64>(x), view_mut(out), Bf16::of_f64),
        (Kind::Bf16, Kind::F64) => convert(team, view::<Bf16>(x), view_mut(out), |x| f64::from(x.wide())),
        (Kind::F32, Kind::Bf16) => cast::<f32, Bf16>(team, view(x), view_mut(out)),
        (Kind::Bf16, Kind::F32) => cast::<Bf16, f32>(team, view(x), view_mut(out)),
        (found, wanted) => {
            let (found, wanted) = (found.name(), wanted.name());
            return Err(Error::Kind { op: op::Copy::NAME, tensor: "x", found, wanted });
        }
    }
    Ok(())
}

/// `out = x`, each element rounded.
pub(super) fn cast<X: Number, Y: Number>(team: &Team, x: &[X], out: &mut [Y]) {
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |task, out| {
        cast_piece(team.kernel, &x[task * TASK_ELEMENTS..][..out.len()], out);
    });
}

wide! {
    fn cast_piece<X: Number, Y: Number>(x: &[X], out: &mut [Y]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = Y::rounded(x.wide());
        }
    }
}

/// `out = x`, each element through `by`.
fn convert<X: Copy + Sync, Y: Send>(team: &Team, x: &[X], out: &mut [Y], by: impl Fn(X) -> Y + Sync) {
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |task, out| {
        for (out, &x) in out.iter_mut().zip(&x[task * TASK_ELEMENTS..]) {
            *out = by(x);
        }
    });
}

/// Every element becomes `value`.
pub(super) fn fill(team: &Team, op: &op::Fill<'_>) -> Result<()> {
    let op::Fill { out, value } = *op;
    match out.kind() {
        Kind::F64 => set(team, view_mut::<f64>(out), value),
        Kind::F32 => set_floats(team, view_mut(out), value as f32),
        Kind::Bf16 => set(team, view_mut(out), Bf16::of_f64(value)),
        Kind::I32 => set(team, view_mut(out), value as i32),
    }
    Ok(())
}

/// A number of floats that no cache holds: 32 MiB.
pub(super) const BEYOND_CACHES: usize = 8 << 20;

/// As `set`; what caches cannot hold is written past them, which saves reading it first.
fn set_floats(team: &Team, out: &mut [f32], value: f32) {
    if out.len() < BEYOND_CACHES {
        return set(team, out, value);
    }
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |_, out| stream(out, value));
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn stream(out: &mut [f32], value: f32) {
    use std::arch::x86_64::{__m128, _mm_set1_ps, _mm_sfence, _mm_stream_ps};
    // SAFETY: a vector of four floats may hold any four floats.
    let (before, lines, after) = unsafe { out.align_to_mut::<__m128>() };
    before.fill(value);
    after.fill(value);
    // SAFETY: every x86-64 processor has SSE; each line is aligned and inside; the fence orders the stores
    // before whatever tells other threads that they are done.
    unsafe {
        let values = _mm_set1_ps(value);
        lines.iter_mut().for_each(|line| _mm_stream_ps(std::ptr::from_mut(line).cast(), values));
        _mm_sfence();
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn stream(out: &mut [f32], value: f32) {
    out.fill(value);
}

/// Sets every element.
pub(super) fn set<T: Copy + Send + Sync>(team: &Team, out: &mut [T], value: T) {
    team.each_piece(Chunks::of(out, TASK_ELEMENTS), |_, out| out.fill(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_past_the_caches_is_all_there_at_any_alignment() {
        for (skip, len) in [(0, 64), (1, 64), (3, 2), (2, 0), (7, 1001)] {
            let mut values = vec![1.0; skip + len + 5];
            stream(&mut values[skip..skip + len], 0.5);
            let wanted = |index| if (skip..skip + len).contains(&index) { 0.5 } else { 1.0 };
            assert!(values.iter().enumerate().all(|(index, &value)| value == wanted(index)), "{skip} {len}");
        }
    }
}
