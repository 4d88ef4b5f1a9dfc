//! The definitions as a backend: host memory, one op at a time.

use crate::backend::{Backend, DeviceInfo, MemoryUse};
use crate::error::Result;
use crate::host::HostMemory;
use crate::op::Op;
use crate::precision::Precision;
use crate::slot::Slot;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The backend that runs the definitions.
pub struct Reference {
    info: DeviceInfo,
    memory: HostMemory,
    /// The lock that lets one op or copy run at a time.
    turn: Mutex<()>,
    precision: Precision,
}

impl Reference {
    /// The definitions, exact in f64.
    pub fn new() -> Reference {
        Reference::with_precision(Precision::F32)
    }

    /// The definitions with the operands of products rounded to `precision`; everything else stays f64.
    pub fn with_precision(precision: Precision) -> Reference {
        let info = DeviceInfo {
            name: "reference".into(),
            description: "the definitions in f64, on one thread".into(),
            memory_bytes: 0,
            threads: 1,
        };
        Reference { info, memory: HostMemory::new("reference"), turn: Mutex::new(()), precision }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Reference {
    fn default() -> Reference {
        Reference::new()
    }
}

impl Backend for Reference {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.memory.allocate(bytes)
    }

    fn release(&self, slot: Slot) {
        self.memory.release(slot);
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        let _turn = self.turn();
        self.memory.write(slot, offset_bytes, from_host)
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        let _turn = self.turn();
        self.memory.read(slot, offset_bytes, to_host)
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.memory.check(op)?;
        let _turn = self.turn();
        super::run(op, self.precision);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.memory.memory_in_use()
    }

    fn restart_peak(&self) {
        self.memory.restart_peak();
    }
}
