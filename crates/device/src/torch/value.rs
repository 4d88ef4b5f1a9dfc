//! Tensors of torch's that this program owns, and what the C functions do to them without the dispatcher.
#![allow(unsafe_code)]

use super::counts::launch;
use super::library::{Handle, Symbols};
use super::refusal::Refusal;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI64, Ordering};

/// Tensors of torch's that this process owns.
static LIVE: AtomicI64 = AtomicI64::new(0);

pub(super) fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

/// A tensor of torch's, given back when dropped.
pub(super) struct Value {
    torch: &'static Symbols,
    handle: Handle,
}

// SAFETY: a handle is a counted reference to a tensor; torch counts atomically, and lets threads share
// tensors.
unsafe impl Send for Value {}
// SAFETY: as above; the order of ops settles who writes when.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the handle is this value's own, and is not used after this.
        unsafe { (self.torch.delete)(self.handle) };
    }
}

impl Value {
    /// Takes a handle over.
    pub(super) fn owning(torch: &'static Symbols, handle: Handle) -> Value {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Value { torch, handle }
    }

    pub(super) fn torch(&self) -> &'static Symbols {
        self.torch
    }

    /// The handle, which stays this value's.
    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// The tensor that `make` writes. Errors if it fails.
    pub(super) fn made(
        torch: &'static Symbols,
        make: impl FnOnce(*mut Handle) -> i32,
    ) -> Result<Value, Refusal> {
        let mut handle = std::ptr::null_mut();
        torch.check(make(&raw mut handle))?;
        Ok(Value::owning(torch, handle))
    }

    /// A tensor of unspecified content on the device (type, index).
    pub(super) fn empty(
        torch: &'static Symbols,
        sizes: &[i64],
        dtype: i32,
        (kind, index): (i32, i32),
    ) -> Result<Value, Refusal> {
        let (strides, rank) = (row_major(sizes), sizes.len() as i64);
        // SAFETY: as many strides as sizes.
        let made = Value::made(torch, |out| unsafe {
            (torch.empty)(rank, sizes.as_ptr(), strides.as_ptr(), dtype, kind, index, out)
        });
        if torch.has_words() {
            return made;
        }
        // A torch that does not say why refuses new tensors for lack of memory, once a device has made the
        // first.
        let bytes = sizes.iter().product::<i64>() * torch.dtypes.bytes(dtype);
        made.map_err(|refusal| refusal.of_memory(bytes as u64))
    }

    /// Memory of the host's as a flat tensor of f32.
    ///
    /// # Safety
    /// The memory must outlive the tensor, and be writable where the tensor is written to.
    pub(super) unsafe fn on_host(
        torch: &'static Symbols,
        data: *mut c_void,
        count: usize,
        dtype: i32,
    ) -> Result<Value, Refusal> {
        let (sizes, strides) = ([count as i64], [1_i64]);
        // SAFETY: the caller keeps the memory alive.
        Value::made(torch, |out| unsafe {
            (torch.blob)(data, 1, sizes.as_ptr(), strides.as_ptr(), 0, dtype, torch.cpu, -1, out)
        })
    }

    /// A number, on the CPU, where torch takes it as an operand beside tensors of any device.
    pub(super) fn f32(torch: &'static Symbols, value: f32) -> Result<Value, Refusal> {
        // SAFETY: writes one handle.
        Value::made(torch, |out| unsafe { (torch.scalar_f32)(value, out) })
    }

    pub(super) fn f64(torch: &'static Symbols, value: f64) -> Result<Value, Refusal> {
        // SAFETY: writes one handle.
        Value::made(torch, |out| unsafe { (torch.scalar_f64)(value, out) })
    }

    pub(super) fn i64(torch: &'static Symbols, value: i64) -> Result<Value, Refusal> {
        // SAFETY: writes one handle.
        Value::made(torch, |out| unsafe { (torch.scalar_i64)(value, out) })
    }

    /// The undefined tensor, which stands for none.
    pub(super) fn undefined(torch: &'static Symbols) -> Result<Value, Refusal> {
        // SAFETY: writes one handle.
        Value::made(torch, |out| unsafe { (torch.undefined)(out) })
    }

    pub(super) fn sizes(&self) -> Result<Vec<i64>, Refusal> {
        let (mut rank, mut sizes) = (0, std::ptr::null());
        // SAFETY: a live tensor, which keeps its sizes as long as it lives: as many as its rank.
        unsafe {
            self.torch.check((self.torch.rank)(self.handle, &raw mut rank))?;
            self.torch.check((self.torch.sizes)(self.handle, &raw mut sizes))?;
            Ok((0..rank as usize).map(|axis| *sizes.add(axis)).collect())
        }
    }

    /// Other sizes and strides over the same memory, from its element `first` on.
    pub(super) fn strided(&self, sizes: &[i64], strides: &[i64], first: usize) -> Result<Value, Refusal> {
        assert_eq!(sizes.len(), strides.len(), "strides of sizes {sizes:?}");
        let rank = sizes.len() as i64;
        // SAFETY: as many strides as sizes; torch keeps the storage as long as the view lives.
        Value::made(self.torch, |out| unsafe {
            (self.torch.view)(self.handle, rank, sizes.as_ptr(), strides.as_ptr(), first as i64, out)
        })
    }

    /// Other sizes over the same memory, row by row, from its element `first` on.
    pub(super) fn shaped(&self, sizes: &[i64], first: usize) -> Result<Value, Refusal> {
        self.strided(sizes, &row_major(sizes), first)
    }

    /// Copies `from` here, across types and devices, and is done when it returns if either side is the host.
    pub(super) fn set(&self, from: &Value) -> Result<(), Refusal> {
        launch();
        // SAFETY: both are live tensors.
        self.torch.check(unsafe { (self.torch.copy)(self.handle, from.handle, 0) })
    }

    pub(super) fn fill(&self, value: f64) -> Result<(), Refusal> {
        launch();
        // SAFETY: a live tensor.
        self.torch.check(unsafe { (self.torch.fill)(self.handle, value) })
    }

    /// `self - times other`: the only addition among torch's stable C functions.
    pub(super) fn minus(&self, other: &Value, times: f64) -> Result<Value, Refusal> {
        launch();
        // SAFETY: both are live tensors.
        Value::made(self.torch, |out| unsafe { (self.torch.subtract)(self.handle, other.handle, times, out) })
    }

    pub(super) fn plus(&self, other: &Value) -> Result<Value, Refusal> {
        self.minus(other, -1.0)
    }

    /// `self += times a b`.
    pub(super) fn add_product(&self, a: &Value, b: &Value, times: f64) -> Result<(), Refusal> {
        launch();
        let out = self.handle;
        // SAFETY: all are live tensors.
        let code = unsafe { (self.torch.addmm)(out, out, a.handle, b.handle, 1.0, times as f32) };
        self.torch.check(code)
    }

    /// One more reference, for a call to consume.
    pub(super) fn lent(&self) -> Result<u64, Refusal> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a live tensor; writes one handle.
        self.torch.check(unsafe { (self.torch.again)(self.handle, &raw mut handle) })?;
        Ok(handle.expose_provenance() as u64)
    }

    /// The same tensor once more.
    pub(super) fn again(&self) -> Result<Value, Refusal> {
        // SAFETY: a live tensor; writes one handle.
        Value::made(self.torch, |out| unsafe { (self.torch.again)(self.handle, out) })
    }

    /// The handle as a number, which the caller has to turn back or to free.
    pub(super) fn into_number(self) -> u64 {
        let number = self.handle.expose_provenance() as u64;
        std::mem::forget(self);
        number
    }

    /// Takes back what `into_number` gave.
    pub(super) fn from_number(torch: &'static Symbols, number: u64) -> Value {
        Value { torch, handle: std::ptr::with_exposed_provenance_mut(number as usize) }
    }
}

/// Strides of a dense tensor, the last dimension innermost.
pub(super) fn row_major(sizes: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; sizes.len()];
    for axis in (1..sizes.len()).rev() {
        strides[axis - 1] = strides[axis] * sizes[axis].max(1);
    }
    strides
}
