//! A device that computes nothing and counts everything: a step of a 290-billion-parameter model costs it no memory.

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::Result;
use crate::op::Op;
use lingot_spec::Cost;
use std::sync::{Arc, Mutex, MutexGuard};

/// What was asked of the device since the last `take`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    /// Every op in order.
    pub ops: Vec<(&'static str, Cost)>,
    pub memory: MemoryUse,
}

/// Reads what a [`Null`] has counted; stays valid after the device was wrapped.
#[derive(Clone, Default)]
pub struct Counter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    count: Count,
    next_slot: u64,
}

impl Counter {
    /// What was counted since the last call; the peak restarts from what is in use.
    pub fn take(&self) -> Count {
        let mut state = self.lock();
        let count = state.count.clone();
        state.count.ops.clear();
        state.count.memory.peak_bytes = count.memory.now_bytes;
        count
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The device. What is read from it is zero.
pub struct Null {
    info: DeviceInfo,
    counter: Counter,
}

impl Null {
    /// The device, and what reads its count.
    pub fn new() -> (Null, Counter) {
        let info = DeviceInfo {
            name: "null".into(),
            description: "counts, computes nothing".into(),
            memory_bytes: 0,
            threads: 1,
        };
        let counter = Counter::default();
        (Null { info, counter: counter.clone() }, counter)
    }
}

impl Backend for Null {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        let mut state = self.counter.lock();
        let memory = &mut state.count.memory;
        memory.now_bytes += bytes as u64;
        memory.peak_bytes = memory.peak_bytes.max(memory.now_bytes);
        state.next_slot += 1;
        Ok(Slot(state.next_slot))
    }

    fn release(&self, _slot: Slot, bytes: usize) {
        self.counter.lock().count.memory.now_bytes -= bytes as u64;
    }

    fn write(&self, _slot: Slot, _offset_bytes: usize, _from_host: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _slot: Slot, _offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        to_host.fill(0);
        Ok(())
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        self.counter.lock().count.ops.push((op.name(), op.cost()));
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.counter.lock().count.memory
    }
}
