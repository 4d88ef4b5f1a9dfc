//! Memory that kernels need while they run. Each thread has its own, so that no op allocates any.

use super::matrix::TILE;
use super::micro::{DEPTH, PITCH};
use crate::host::prefer_huge_pages;
use std::cell::RefCell;

/// The scratch memory of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) packed: Packed,
    /// The sums of a tile whose numbers are rounded at the end.
    pub(super) sums: Vec<f32>,
    /// Tiles of attention, such as queries, scores and gradients.
    pub(super) tiles: [Vec<f32>; 8],
    /// Selection scores of experts and groups.
    pub(super) doubles: [Vec<f64>; 2],
}

/// Blocks of A and B as the micro-kernels read them.
#[derive(Default)]
pub(super) struct Packed {
    pub(super) a: Aligned,
    pub(super) b: Aligned,
    /// A and B as f32, where bf16 is widened before it is packed.
    pub(super) wide: [Vec<f32>; 2],
}

/// Lends this thread's scratch memory. Not to be nested.
pub(super) fn with_scratch<R>(use_: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
    }
    SCRATCH.with_borrow_mut(use_)
}

/// `len` elements of `buffer`, of unspecified content.
pub(super) fn take<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.reserve_exact(len - buffer.len());
        prefer_huge_pages(buffer.as_mut_ptr().cast(), buffer.capacity() * size_of::<T>());
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// The most floats a packed block has: `TILE` rows `PITCH` apart, as many columns of depth `DEPTH` in whole
/// panels, or three bf16 for each of as many values.
pub(super) const PACKED_LEN: usize = TILE * DEPTH * 3 / 2;
const _: () = assert!(PACKED_LEN >= TILE * PITCH + 64 * DEPTH);

/// A buffer for one packed block, its first element on a cache line.
pub(super) struct Aligned {
    values: Vec<f32>,
    skip: usize,
}

impl Default for Aligned {
    fn default() -> Aligned {
        let values = vec![0.0; PACKED_LEN + 16];
        let skip = values.as_ptr().align_offset(64).min(15);
        Aligned { values, skip }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values[self.skip..]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.skip..]
    }
}
