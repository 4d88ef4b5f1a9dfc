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

/// Floats that no cache holds all of: 32 MiB.
const BEYOND_CACHES: usize = 8 << 20;

/// Every element becomes `value`. What caches cannot keep is written past them, which saves reading it first.
pub(super) fn fill_floats(team: &Team, out: &mut [f32], value: f32) {
    if out.len() < BEYOND_CACHES {
        return fill(team, out, value);
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
    // SAFETY: every x86-64 processor has SSE; each line is aligned and inside; the fence orders the stores before
    // whatever tells other threads that they are done.
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

/// Every element becomes `value`.
pub(super) fn fill<T: Copy + Send + Sync>(team: &Team, out: &mut [T], value: T) {
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
