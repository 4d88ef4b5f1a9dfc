//! Prefetching: asking for memory before it is needed.
#![allow(unsafe_code)]

/// Floats of a cache line.
pub(super) const LINE: usize = 16;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Prefetches the cache line at an address, which need not be readable.
#[inline(always)]
pub(super) fn prefetch<E>(line: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE, and prefetching never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// As `prefetch`, into the second-level cache only.
#[inline(always)]
fn prefetch_second_level(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE, and prefetching never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Stretches of memory that will be needed, prefetched a line at a time while the caller computes.
#[derive(Default)]
pub(super) struct Ahead {
    now: Stretches,
    then: Stretches,
    /// Bytes of the stretch that were prefetched.
    done_bytes: usize,
}

/// Stretches of memory of one length.
#[derive(Clone, Copy)]
pub(super) struct Stretches {
    pub(super) first: *const u8,
    pub(super) count: usize,
    pub(super) pitch_bytes: usize,
    pub(super) len_bytes: usize,
}

impl Default for Stretches {
    fn default() -> Stretches {
        Stretches { first: std::ptr::null(), count: 0, pitch_bytes: 0, len_bytes: 0 }
    }
}

impl Ahead {
    pub(super) fn of([now, then]: [Stretches; 2]) -> Ahead {
        Ahead { now, then, done_bytes: 0 }
    }

    /// Prefetches up to `LINES` lines in a row, all of one stretch.
    #[inline(always)]
    pub(super) fn ask<const LINES: usize>(&mut self) {
        if self.now.count == 0 {
            self.now = std::mem::take(&mut self.then);
            return;
        }
        for line in 0..LINES {
            prefetch_second_level(self.now.first.wrapping_add(self.done_bytes + line * LINE_BYTES));
        }
        self.done_bytes += LINES * LINE_BYTES;
        if self.done_bytes >= self.now.len_bytes {
            self.done_bytes = 0;
            self.now.first = self.now.first.wrapping_add(self.now.pitch_bytes);
            self.now.count -= 1;
        }
    }
}
