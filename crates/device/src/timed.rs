//! A device that passes every call on to another and keeps the time each kind of op took.

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::Result;
use crate::op::Op;
use lingot_spec::Cost;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// What one kind of op took since the last `take`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OpTime {
    pub calls: u64,
    pub seconds: f64,
    pub flops: f64,
    /// The least that had to be read and written.
    pub bytes: f64,
}

/// Reads what a [`Timed`] has measured; stays valid after the device was wrapped.
#[derive(Clone, Default)]
pub struct Times(Arc<Mutex<BTreeMap<&'static str, OpTime>>>);

impl Times {
    /// What was measured since the last call, the longest first. Besides ops there are `allocate`, `release`, `read` and
    /// `write`.
    pub fn take(&self) -> Vec<(&'static str, OpTime)> {
        let mut times: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
        times.sort_by(|(_, a), (_, b)| b.seconds.total_cmp(&a.seconds));
        times
    }

    fn add<T>(&self, name: &'static str, cost: Cost, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let seconds = start.elapsed().as_secs_f64();
        let mut times = self.lock();
        let time = times.entry(name).or_default();
        time.calls += 1;
        time.seconds += seconds;
        time.flops += cost.flops;
        time.bytes += cost.bytes;
        result
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, OpTime>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The device. It waits after each op, so that an op's time is its own.
pub struct Timed<B> {
    backend: B,
    times: Times,
}

impl<B: Backend> Timed<B> {
    /// `backend` under a clock, and what reads the clock.
    pub fn new(backend: B) -> (Timed<B>, Times) {
        let times = Times::default();
        (Timed { backend, times: times.clone() }, times)
    }
}

impl<B: Backend> Backend for Timed<B> {
    fn info(&self) -> &DeviceInfo {
        self.backend.info()
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.times.add("allocate", Cost::default(), || self.backend.allocate(bytes))
    }

    fn release(&self, slot: Slot, bytes: usize) {
        self.times.add("release", Cost::default(), || self.backend.release(slot, bytes));
    }

    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.times.add("write", Cost::default(), || self.backend.write(slot, offset_bytes, from_host))
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.times.add("read", Cost::default(), || self.backend.read(slot, offset_bytes, to_host))
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        let (name, cost) = (op.name(), op.cost());
        self.times.add(name, cost, || {
            self.backend.run(op)?;
            self.backend.finish()
        })
    }

    fn finish(&self) -> Result<()> {
        self.backend.finish()
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.backend.memory_in_use()
    }
}
