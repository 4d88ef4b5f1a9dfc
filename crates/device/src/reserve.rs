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

/// Allocates, and if that fails for a small allocation, again once the reserve is free.
fn allocate(bytes: usize, ask: impl Fn() -> *mut u8) -> *mut u8 {
    let found = ask();
    if !found.is_null() || bytes > SMALL_BYTES {
        return found;
    }
    IS_LOW.store(true, Ordering::Relaxed);
    release(RESERVED.swap(null_mut(), Ordering::AcqRel));
    let found = ask();
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
        let ask = || unsafe { System.alloc(layout) };
        allocate(layout.size(), ask)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about the layout is the one that is asked for.
        let ask = || unsafe { System.alloc_zeroed(layout) };
        allocate(layout.size(), ask)
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise about block, layout and size is the one that is asked for. A
        // reallocation that fails leaves the block as it was, so it may be tried again.
        let ask = || unsafe { System.realloc(block, layout, bytes) };
        allocate(bytes, ask)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about block and layout is the one that is asked for.
        unsafe { System.dealloc(block, layout) }
    }
}
