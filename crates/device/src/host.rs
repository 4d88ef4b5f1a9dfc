//! Tensors in host memory: an allocator that reuses what was given back, and typed views for the host's
//! backends.
#![allow(unsafe_code)]

use crate::backend::MemoryUse;
use crate::bf16::Bf16;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::slot::{Owner, Slot};
use crate::tensor::{Kind, Tensor};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Wide enough for every SIMD load, and a cache line.
const ALIGNMENT_BYTES: usize = 64;

/// A huge page. Blocks of at least this size begin on one.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The memory of one host backend: its slots, whose numbers are addresses.
pub(crate) struct HostMemory {
    owner: Owner,
    /// The backend's name, for errors.
    device: String,
    state: Mutex<State>,
}

/// Blocks that were given back, by size, and what is in use.
#[derive(Default)]
struct State {
    free: HashMap<usize, Vec<u64>>,
    in_use: MemoryUse,
}

impl HostMemory {
    pub(crate) fn new(device: &str) -> HostMemory {
        HostMemory { owner: Owner::new(), device: device.into(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Slot> {
        let full = |has_bytes| Error::OutOfMemory {
            device: self.device.clone(),
            needs_bytes: bytes as u64,
            has_bytes,
        };
        let layout = layout(bytes).ok_or_else(|| full(isize::MAX as u64))?;
        let mut state = self.state();
        if let Some(address) = state.free.get_mut(&layout.size()).and_then(Vec::pop) {
            state.in_use.add(layout.size());
            return Ok(self.owner.slot(address, bytes));
        }
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc(layout) };
        if pointer.is_null() {
            return Err(full(0));
        }
        prefer_huge_pages(pointer, layout.size());
        // SAFETY: just allocated with this size. Zeroed after the pages were asked for, since touching makes
        // them.
        unsafe { pointer.write_bytes(0, layout.size()) };
        state.in_use.add(layout.size());
        Ok(self.owner.slot(pointer.expose_provenance() as u64, bytes))
    }

    pub(crate) fn release(&self, slot: Slot) {
        let (Some(layout), Ok(address)) = (layout(slot.bytes()), self.owner.number(&slot)) else { return };
        let mut state = self.state();
        state.in_use.subtract(layout.size());
        state.free.entry(layout.size()).or_default().push(address);
    }

    /// Copies into a slot. The caller holds the backend's lock.
    pub(crate) fn write(&self, slot: &Slot, offset_bytes: usize, from: &[u8]) -> Result<()> {
        let address = self.owner.number_of_range(slot, offset_bytes, from.len())?;
        let to: *mut u8 = std::ptr::with_exposed_provenance_mut(address as usize + offset_bytes);
        // SAFETY: the slot is in use and of this memory, the copy ends within it, and a slice of the caller's
        // cannot lie in it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Ok(())
    }

    /// Copies out of a slot. The caller holds the backend's lock.
    pub(crate) fn read(&self, slot: &Slot, offset_bytes: usize, to: &mut [u8]) -> Result<()> {
        let address = self.owner.number_of_range(slot, offset_bytes, to.len())?;
        let from: *const u8 = std::ptr::with_exposed_provenance(address as usize + offset_bytes);
        // SAFETY: as for `write`.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Errors if an operand is not in this memory: then it may not be viewed.
    pub(crate) fn check(&self, op: &Op<'_>) -> Result<()> {
        self.owner.check(op)
    }

    pub(crate) fn memory_in_use(&self) -> MemoryUse {
        self.state().in_use
    }

    pub(crate) fn restart_peak(&self) {
        self.state().in_use.restart_peak();
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (&size, addresses) in &state.free {
            for &address in addresses {
                if let Some(layout) = layout(size) {
                    // SAFETY: the block came from `alloc` with this layout, and its slot was given back.
                    unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address as usize), layout) };
                }
            }
        }
    }
}

/// The layout of a block for `bytes` bytes, unless no memory is that large. Sizes are rounded up a little, so
/// that nearly equal tensors use each other's blocks again.
fn layout(bytes: usize) -> Option<Layout> {
    isize::try_from(bytes).ok()?;
    let step = (bytes / 16).next_power_of_two().max(ALIGNMENT_BYTES);
    let size = bytes.max(1).next_multiple_of(step);
    let alignment = if size < HUGE_PAGE_BYTES { ALIGNMENT_BYTES } else { HUGE_PAGE_BYTES };
    Layout::from_size_align(size, alignment).ok()
}

/// Asks for huge pages where fresh memory holds whole ones: products read columns, which touch a page for
/// each row.
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
impl Element for Bf16 {
    const KIND: Kind = Kind::Bf16;
}
impl Element for i32 {
    const KIND: Kind = Kind::I32;
}

/// The elements of a tensor in host memory, to read.
///
/// Sound because a host backend views the operands of one op at a time, after `HostMemory::check`, and an op
/// whose outputs overlap another operand is never enqueued: while one of these slices is alive, nothing else
/// writes to its memory.
pub(crate) fn view<T: Element>(tensor: &Tensor) -> &[T] {
    let first = first_of::<T>(tensor);
    // SAFETY: the slot holds `len` initialised elements from there on, aligned; the tensor keeps it alive.
    unsafe { std::slice::from_raw_parts(first, tensor.len()) }
}

/// As [`view`], to write.
#[expect(clippy::mut_from_ref, reason = "tensors are handles; the check for overlaps settles who may write")]
pub(crate) fn view_mut<T: Element>(tensor: &Tensor) -> &mut [T] {
    let first = first_of::<T>(tensor).cast_mut();
    // SAFETY: as for `view`; no other operand of the op overlaps this one.
    unsafe { std::slice::from_raw_parts_mut(first, tensor.len()) }
}

/// Where a tensor's first element is.
fn first_of<T: Element>(tensor: &Tensor) -> *const T {
    assert_eq!(tensor.kind(), T::KIND, "a view of another kind");
    std::ptr::with_exposed_provenance(tensor.slot().address() as usize + tensor.place().offset_bytes)
}
