//! A device that measures how long each kind of op takes on the device behind it.

use crate::backend::{Backend, Wrapper};
use crate::device::Device;
use crate::error::Result;
use crate::op::Op;
use crate::slot::Slot;
use lingot_spec::Cost;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// What one kind of op took between two calls of [`Times::take`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OpTime {
    /// How often it ran.
    pub calls: u64,
    /// Seconds of all calls.
    pub seconds: f64,
    /// Floating-point operations of all calls.
    pub flops: f64,
    /// Bytes that all calls had to read and write at least.
    pub bytes: f64,
}

/// Reads the times of a [`Timed`], also after the device was wrapped.
#[derive(Clone, Default)]
pub struct Times(Arc<Mutex<BTreeMap<&'static str, OpTime>>>);

impl Times {
    /// Returns what was measured since the last call, the longest first. Besides ops there are `allocate`,
    /// `release`, `read` and `write`.
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

/// The device. It waits after each op, so that the next op's time does not include it.
pub struct Timed {
    inner: Device,
    times: Times,
}

impl Timed {
    /// `inner` under a clock, and what reads the clock.
    pub fn new(inner: Device) -> (Timed, Times) {
        let times = Times::default();
        (Timed { inner, times: times.clone() }, times)
    }
}

impl Wrapper for Timed {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.times.add("allocate", Cost::default(), || self.inner().allocate(bytes))
    }

    fn release(&self, slot: Slot) {
        self.times.add("release", Cost::default(), || self.inner().release(slot));
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.times.add("write", Cost::default(), || self.inner().write(slot, offset_bytes, from_host))
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.times.add("read", Cost::default(), || self.inner().read(slot, offset_bytes, to_host))
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.times.add(op.name(), op.cost(), || {
            self.inner().run(op)?;
            self.inner().finish()
        })
    }
}
