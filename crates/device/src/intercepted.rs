//! A device that passes every call on to another, but for ops: what runs them is the wrapper's to say.
//!
//! Timing, recording and planting faults differ only in that.

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Device;

/// The device; `run` is called in place of its own.
pub struct Intercepted<F> {
    inner: Device,
    run: F,
}

impl<F: Fn(Op<'_>) -> Result<()> + Send + Sync> Intercepted<F> {
    /// `inner`, whose ops go to `run`. That one calls `inner` itself where the op is to happen.
    pub fn new(inner: Device, run: F) -> Intercepted<F> {
        Intercepted { inner, run }
    }
}

impl<F: Fn(Op<'_>) -> Result<()> + Send + Sync> Backend for Intercepted<F> {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.inner.allocate(bytes)
    }

    fn release(&self, slot: Slot, bytes: usize) {
        self.inner.release(slot, bytes);
    }

    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.inner.write(slot, offset_bytes, from_host)
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.inner.read(slot, offset_bytes, to_host)
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        (self.run)(op)
    }

    fn finish(&self) -> Result<()> {
        self.inner.finish()
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.inner.memory_in_use()
    }
}
