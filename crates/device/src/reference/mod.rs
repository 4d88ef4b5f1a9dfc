//! What every op means: one definition per op, in plain f64 loops, on host memory.
//!
//! Backends are held against these definitions by [`crate::conformance`], and the gradients written here are held
//! against finite differences. A definition takes slices and returns new values; this file alone knows tensors: it
//! reads each operand into f64 and rounds each result to the kind of the tensor that takes it. Nothing here is fast.

mod adamw;
mod attention;
mod balance_bias;
mod combine;
mod cross_entropy;
mod dispatch;
mod elementwise;
mod embedding;
mod grouped_matmul;
mod matmul;
mod norm_head;
mod rms_norm;
mod rope;
mod route;
mod run;
mod sort_by_expert;
mod sums;
mod swiglu;

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::Result;
use crate::host::{self, HostMemory};
use crate::op::Op;
use crate::precision::Precision;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The backend that is the definition.
pub struct Reference {
    info: DeviceInfo,
    memory: HostMemory,
    /// One op, one copy at a time.
    turn: Mutex<()>,
    precision: Precision,
}

impl Reference {
    pub fn new() -> Reference {
        Reference::with_precision(Precision::F32)
    }

    /// With the operands of products rounded to `precision`; everything else stays f64.
    pub fn with_precision(precision: Precision) -> Reference {
        let info = DeviceInfo {
            name: "reference".into(),
            description: "the definitions in f64, on one thread".into(),
            memory_bytes: 0,
            threads: 1,
        };
        Reference { info, memory: HostMemory::default(), turn: Mutex::new(()), precision }
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
        self.memory.allocate(&self.info.name, bytes)
    }

    fn release(&self, slot: Slot, bytes: usize) {
        self.memory.release(slot, bytes);
    }

    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        let _turn = self.turn();
        host::write(slot, offset_bytes, from_host);
        Ok(())
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        let _turn = self.turn();
        host::read(slot, offset_bytes, to_host);
        Ok(())
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        let _turn = self.turn();
        run::run(op, self.precision);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.memory.memory_in_use()
    }
}
