//! Asking for memory before it is needed.
#![allow(unsafe_code)]

/// Floats of a cache line.
pub(super) const LINE: usize = 16;

/// Asks for the cache line at an address, which need not be readable.
#[inline(always)]
pub(super) fn prefetch(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE, and prefetching never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
