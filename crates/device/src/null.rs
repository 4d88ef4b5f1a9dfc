//! A device that computes nothing and counts everything: a step of a 290-billion-parameter model costs it no
//! memory.

use crate::backend::{Backend, DeviceInfo, MemoryUse};
use crate::error::Result;
use crate::op::Op;
use crate::slot::{Owner, Slot};
use lingot_spec::Cost;
use std::sync::{Arc, Mutex, MutexGuard};

/// What was asked of the device between two calls of [`Counter::take`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    /// Every op in order.
    pub ops: Vec<(&'static str, Cost)>,
    /// Bytes in use, and the most that were.
    pub memory: MemoryUse,
}

/// Reads the count of a [`Null`], also after the device was wrapped.
#[derive(Clone, Default)]
pub struct Counter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    count: Count,
    next_number: u64,
}

impl Counter {
    /// Returns what was counted since the last call, and restarts the count and the peak.
    pub fn take(&self) -> Count {
        let mut state = self.lock();
        let count = state.count.clone();
        state.count.ops.clear();
        state.count.memory.restart_peak();
        count
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The device. All numbers that are read from it are zero.
pub struct Null {
    info: DeviceInfo,
    owner: Owner,
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
        (Null { info, owner: Owner::new(), counter: counter.clone() }, counter)
    }
}

impl Backend for Null {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        let mut state = self.counter.lock();
        state.count.memory.add(bytes);
        state.next_number += 1;
        Ok(self.owner.slot(state.next_number, bytes))
    }

    fn release(&self, slot: Slot) {
        if self.owner.number(&slot).is_ok() {
            self.counter.lock().count.memory.subtract(slot.bytes());
        }
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.owner.number_of_range(slot, offset_bytes, from_host.len()).map(drop)
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        to_host.fill(0);
        self.owner.number_of_range(slot, offset_bytes, to_host.len()).map(drop)
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.owner.check(op)?;
        self.counter.lock().count.ops.push((op.name(), op.cost()));
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.counter.lock().count.memory
    }

    fn restart_peak(&self) {
        self.counter.lock().count.memory.restart_peak();
    }
}
