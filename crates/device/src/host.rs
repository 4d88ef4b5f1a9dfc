//! Tensors in host memory: an allocator that reuses what was given back, and typed views for the host's backends.
#![allow(unsafe_code)]

use crate::backend::{MemoryUse, Slot};
use crate::error::{Error, Result};
use crate::tensor::{Kind, Tensor};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::sync::Mutex;

/// Wide enough for every SIMD load, and a cache line.
const ALIGNMENT_BYTES: usize = 64;

/// A huge page. Blocks of at least this size begin on one.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Blocks that were given back, by size, and what is in use.
#[derive(Default)]
pub(crate) struct HostMemory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: HashMap<usize, Vec<u64>>,
    use_: MemoryUse,
}

impl HostMemory {
    pub(crate) fn allocate(&self, device: &str, bytes: usize) -> Result<Slot> {
        let layout = layout(device, bytes)?;
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.use_.now_bytes += layout.size() as u64;
        state.use_.peak_bytes = state.use_.peak_bytes.max(state.use_.now_bytes);
        if let Some(address) = state.free.get_mut(&layout.size()).and_then(Vec::pop) {
            return Ok(Slot(address));
        }
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc(layout) };
        if pointer.is_null() {
            state.use_.now_bytes -= layout.size() as u64;
            return Err(Error::OutOfMemory {
                device: device.into(),
                needs_bytes: layout.size() as u64,
                has_bytes: 0,
            });
        }
        prefer_huge_pages(pointer, layout.size());
        // SAFETY: just allocated with this size. Zeroed after the pages were asked for, since touching makes them.
        unsafe { pointer.write_bytes(0, layout.size()) };
        Ok(Slot(pointer.expose_provenance() as u64))
    }

    pub(crate) fn release(&self, slot: Slot, bytes: usize) {
        let Ok(layout) = layout("host", bytes) else { return };
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.use_.now_bytes -= layout.size() as u64;
        state.free.entry(layout.size()).or_default().push(slot.0);
    }

    /// The peak restarts from what is in use now.
    pub(crate) fn memory_in_use(&self) -> MemoryUse {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let use_ = state.use_;
        state.use_.peak_bytes = use_.now_bytes;
        use_
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (&bytes, addresses) in &state.free {
            for &address in addresses {
                if let Ok(layout) = layout("host", bytes) {
                    // SAFETY: the block came from `alloc` with this layout, and nobody holds it any more.
                    unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address as usize), layout) };
                }
            }
        }
    }
}

/// Sizes are rounded up a little, so that nearly equal tensors reuse each other's blocks.
fn layout(device: &str, bytes: usize) -> Result<Layout> {
    let step = (bytes / 16).next_power_of_two().max(ALIGNMENT_BYTES);
    let size = bytes.max(1).next_multiple_of(step);
    let alignment = if size < HUGE_PAGE_BYTES { ALIGNMENT_BYTES } else { HUGE_PAGE_BYTES };
    Layout::from_size_align(size, alignment).map_err(|_| Error::OutOfMemory {
        device: device.into(),
        needs_bytes: bytes as u64,
        has_bytes: isize::MAX as u64,
    })
}

/// Asks for huge pages where a stretch of fresh memory holds whole ones: products read columns, a page for each row.
pub(crate) fn prefer_huge_pages(first: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn madvise(
                first: *mut std::ffi::c_void,
                bytes: usize,
                advice: std::ffi::c_int,
            ) -> std::ffi::c_int;
        }
        /// MADV_HUGEPAGE of madvise(2).
        const HUGE: std::ffi::c_int = 14;
        let skip = first.align_offset(HUGE_PAGE_BYTES);
        let whole = bytes.saturating_sub(skip) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if whole > 0 {
            // SAFETY: whole pages of the caller's memory, whose content stays. A refusal costs speed alone.
            unsafe { madvise(first.wrapping_add(skip).cast(), whole, HUGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (first, bytes);
}

/// Copies into a slot.
pub(crate) fn write(slot: Slot, offset_bytes: usize, from: &[u8]) {
    let to: *mut u8 = std::ptr::with_exposed_provenance_mut(slot.0 as usize + offset_bytes);
    // SAFETY: `Tensor` keeps its views inside its slot, and a slice of the caller's cannot lie in it.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
}

/// Copies out of a slot.
pub(crate) fn read(slot: Slot, offset_bytes: usize, to: &mut [u8]) {
    let from: *const u8 = std::ptr::with_exposed_provenance(slot.0 as usize + offset_bytes);
    // SAFETY: as for `write`.
    unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
}

/// Elements that a host tensor can be viewed as.
pub(crate) trait Element: Copy + 'static {
    const KIND: Kind;
}
impl Element for f64 {
    const KIND: Kind = Kind::F64;
}
impl Element for f32 {
    const KIND: Kind = Kind::F32;
}
impl Element for i32 {
    const KIND: Kind = Kind::I32;
}

/// The elements of a tensor that lives in host memory.
///
/// Sound because a host backend runs one op at a time, and the front doors refuse ops whose outputs overlap any of
/// their other operands: while one of these slices is alive, nothing writes to its memory.
pub(crate) fn view<T: Element>(tensor: &Tensor) -> &[T] {
    assert_eq!(tensor.kind(), T::KIND, "a view of another kind");
    let (slot, first_bytes, _) = tensor.place();
    // SAFETY: the slot holds `len` initialised elements from there on, aligned; the tensor keeps it alive.
    unsafe {
        std::slice::from_raw_parts(
            std::ptr::with_exposed_provenance(slot.0 as usize + first_bytes),
            tensor.len(),
        )
    }
}

/// As [`view`], to write to.
#[expect(clippy::mut_from_ref, reason = "tensors are handles; who may write is settled by the front doors")]
pub(crate) fn view_mut<T: Element>(tensor: &Tensor) -> &mut [T] {
    assert_eq!(tensor.kind(), T::KIND, "a view of another kind");
    let (slot, first_bytes, _) = tensor.place();
    // SAFETY: as for `view`; the front doors made sure that no other operand of the op overlaps an output.
    unsafe {
        std::slice::from_raw_parts_mut(
            std::ptr::with_exposed_provenance_mut(slot.0 as usize + first_bytes),
            tensor.len(),
        )
    }
}
