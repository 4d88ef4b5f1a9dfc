//! The program's allocator: the system's, with a reserve for the moment when there is nothing left.
//!
//! Rust ends a program whose small allocations fail. Here the first that fails is served from a reserve, and
//! a flag tells the program to save what it has and stop. Large allocations, such as those of tensors, are
//! made where their failure is an error; they leave the reserve alone.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Addresses that are held and never touched, so they cost no memory until then.
const RESERVE_BYTES: usize = 32 << 20;
/// Larger allocations are not served from the reserve.
const SMALL_BYTES: usize = 1 << 20;
static RESERVED: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static IS_LOW: AtomicBool = AtomicBool::new(false);
static ON_EXHAUSTED: OnceLock<fn()> = OnceLock::new();

/// The allocator, to be named by the program as its `#[global_allocator]`.
pub struct Reserve;

/// Sets the reserve aside. Without this call, or where there is no room for it, there is none. `on_exhausted`
/// is called once the reserve does not suffice either: it may not allocate, and should end the program.
pub fn set_aside(on_exhausted: fn()) {
    let _ = ON_EXHAUSTED.set(on_exhausted);
    let layout = reserve_layout();
    // SAFETY: the layout's size is not zero.
    let reserve = unsafe { System.alloc(layout) };
    let before = RESERVED.swap(reserve, Ordering::AcqRel);
    release(before);
}

/// Whether an allocation has failed, so that the program lives on its reserve.
pub fn is_low() -> bool {
    IS_LOW.load(Ordering::Relaxed)
}

fn reserve_layout() -> Layout {
    const { Layout::new::<[u8; RESERVE_BYTES]>() }
}

fn release(reserve: *mut u8) {
    if !reserve.is_null() {
        // SAFETY: it was allocated with this layout by the same allocator, and the swap that brought it here
        // took it out of the static, so nothing else frees it.
        unsafe { System.dealloc(reserve, reserve_layout()) };
    }
}

/// Tries a small allocation again that has failed, once the reserve is free.
fn rescue(bytes: usize, again: impl Fn() -> *mut u8) -> *mut u8 {
    if bytes > SMALL_BYTES {
        return null_mut();
    }
    IS_LOW.store(true, Ordering::Relaxed);
    release(RESERVED.swap(null_mut(), Ordering::AcqRel));
    let found = again();
    if found.is_null()
        && let Some(on_exhausted) = ON_EXHAUSTED.get()
    {
        // Unwinding out of an allocator is not allowed, and a signal would be no true exit code.
        on_exhausted();
    }
    found
}

// SAFETY: every call is passed on to the system's allocator with the caller's own layout; a null pointer is
// either passed back, which is how an allocator fails, or replaced by what the same call returns later.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about the layout is the one that is asked for.
        let found = unsafe { System.alloc(layout) };
        // SAFETY: as above.
        if found.is_null() { rescue(layout.size(), || unsafe { System.alloc(layout) }) } else { found }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about the layout is the one that is asked for.
        let found = unsafe { System.alloc_zeroed(layout) };
        // SAFETY: as above.
        if found.is_null() { rescue(layout.size(), || unsafe { System.alloc_zeroed(layout) }) } else { found }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise about block, layout and size is the one that is asked for.
        let found = unsafe { System.realloc(block, layout, bytes) };
        if !found.is_null() {
            return found;
        }
        // SAFETY: as above; a reallocation that fails leaves the block as it was.
        rescue(bytes, || unsafe { System.realloc(block, layout, bytes) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about block and layout is the one that is asked for.
        unsafe { System.dealloc(block, layout) }
    }
}
