//! The CPU backend: threads, SIMD, and matrix products of our own.
//!
//! Results are the same bits for any number of threads: work is divided by shape alone (see `team`). Kernels are
//! functions over slices, one file per op; this file alone knows tensors. Reading order: `team`, `kernel`, `gemm`,
//! `micro`, then any op.

mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod attention_grad;
mod balance_bias;
mod combine;
mod cross_entropy;
mod dispatch;
mod elementwise;
mod embedding;
mod gemm;
mod grouped_matmul;
mod kernel;
mod matmul;
mod micro;
mod norm_head;
mod pack;
mod peak;
mod prefetch;
mod rms_norm;
mod rope;
mod route;
mod run;
mod scratch;
mod sort_by_expert;
mod sums;
mod swiglu;
mod team;
#[cfg(target_arch = "x86_64")]
mod thirds;
mod vector;

pub use kernel::Kernel;
pub use peak::multiply_adds_in_registers;

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::Result;
use crate::host::{self, HostMemory};
use crate::op::Op;
use crate::precision::Precision;
use rope::RopeTable;
use std::sync::{Mutex, MutexGuard};
use team::Team;

/// Elements of one task of a loop that memory limits: large against a task's cost, small against a thread's share.
const TASK_ELEMENTS: usize = 1 << 14;

/// Rows of `width` of one such task.
fn rows_of_a_task(width: usize) -> usize {
    (TASK_ELEMENTS / width.max(1)).max(1)
}

/// The processor of this machine. Holds f32; f64 only to convert from and to.
pub struct Cpu {
    info: DeviceInfo,
    memory: HostMemory,
    /// One op, one copy at a time.
    room: Mutex<Room>,
    team: Team,
}

/// What ops need while they run, kept from op to op.
#[derive(Default)]
struct Room {
    floats: Vec<f32>,
    doubles: Vec<f64>,
    indices: Vec<usize>,
    rope: RopeTable,
}

impl Cpu {
    /// With so many threads, the caller's included; 0 for one per processor.
    pub fn new(threads: usize) -> Cpu {
        Cpu::with_kernel(threads, Kernel::best())
    }

    /// With products of operands rounded to `precision`: what a chip with bf16 products computes, at f32's
    /// speed where this processor has none.
    pub fn with_precision(threads: usize, precision: Precision) -> Cpu {
        Cpu::with_kernel(threads, Kernel::best().in_precision(precision))
    }

    /// With the instruction set of choice, to compare them. Kernels differ in how they round.
    pub fn with_kernel(threads: usize, kernel: Kernel) -> Cpu {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let precision = match kernel.1 {
            Precision::F32 => "",
            Precision::Bf16 if kernel.has_matrix_unit() => ", bf16",
            Precision::Bf16 => ", bf16 emulated",
        };
        let info = DeviceInfo {
            name: "cpu".into(),
            description: format!("{} threads, {}{precision}", threads, kernel.name()),
            memory_bytes: memory_bytes(),
            threads,
        };
        let team = Team::new(threads, kernel);
        Cpu { info, memory: HostMemory::default(), room: Mutex::default(), team }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The machine's memory, where the system says; 0 elsewhere.
pub(crate) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes =
        total.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1024)
}

impl Backend for Cpu {
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
        let _room = self.room();
        host::write(slot, offset_bytes, from_host);
        Ok(())
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        let _room = self.room();
        host::read(slot, offset_bytes, to_host);
        Ok(())
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        run::run(&self.team, &mut self.room(), op)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.memory.memory_in_use()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Device;

    #[test]
    fn every_kernel_passes_the_suite_with_the_same_bits_on_sixteen_threads() {
        for kernel in Kernel::all() {
            let device = Device::new(Cpu::with_kernel(1, kernel));
            let failed = |verdict: &crate::conformance::Verdict| !verdict.passed;
            let failures: Vec<_> =
                crate::conformance::check(&device).unwrap().into_iter().filter(failed).collect();
            assert!(failures.is_empty(), "{}: {failures:?}", kernel.name());
            let alone = crate::conformance::outputs(&device).unwrap();
            let many = crate::conformance::outputs(&Device::new(Cpu::with_kernel(16, kernel))).unwrap();
            assert!(alone == many, "{}: one thread and sixteen differ", kernel.name());
        }
    }
}
