//! The processor as a backend: its threads, its memory, and what ops keep between them.

use super::kernel::Kernel;
use super::team::Team;
use super::workspace::Workspace;
use crate::backend::{Backend, DeviceInfo, MemoryUse};
use crate::boundary::Boundary;
use crate::error::Result;
use crate::host::HostMemory;
use crate::op::Op;
use crate::precision::Precision;
use crate::slot::Slot;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The processor of this machine. Holds f32; f64 only to convert from and to.
pub struct Cpu {
    info: DeviceInfo,
    memory: HostMemory,
    /// The lock that lets one op or copy run at a time.
    workspace: Mutex<Workspace>,
    team: Team,
}

impl Cpu {
    /// The processor with `threads` threads, the caller's included; 0 for one per logical core.
    pub fn new(threads: usize) -> Cpu {
        Cpu::with_kernel(threads, Kernel::best())
    }

    /// The processor with products of operands rounded to `precision`: what a chip with bf16 products
    /// computes, at f32's speed if this processor has none.
    pub fn with_precision(threads: usize, precision: Precision) -> Cpu {
        Cpu::with_kernel(threads, Kernel::best().in_precision(precision))
    }

    /// The processor with the instruction set of choice, to compare them. Kernels differ in how they round.
    pub fn with_kernel(threads: usize, kernel: Kernel) -> Cpu {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let precision = match kernel.1 {
            Precision::F32 => "",
            Precision::Bf16 if kernel.has_matrix_unit() || kernel.has_bf16_pairs() => ", bf16",
            Precision::Bf16 => ", bf16 emulated",
        };
        let info = DeviceInfo {
            name: "cpu".into(),
            description: format!("{} threads, {}{precision}", threads, kernel.name()),
            memory_bytes: memory_bytes(),
            threads,
        };
        let team = Team::new(threads, kernel);
        let memory = HostMemory::new(&info.name);
        Cpu { info, memory, workspace: Mutex::default(), team }
    }

    fn lock(&self) -> MutexGuard<'_, Workspace> {
        self.workspace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine's memory in bytes; 0 if the system does not tell.
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
        self.memory.allocate(bytes)
    }

    fn release(&self, slot: Slot) {
        self.memory.release(slot);
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        let _turn = self.lock();
        self.memory.write(slot, offset_bytes, from_host)
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        let _turn = self.lock();
        self.memory.read(slot, offset_bytes, to_host)
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.memory.check(op)?;
        super::run(&self.team, &mut self.lock(), op)
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

    fn boundaries(&self) -> Vec<Boundary> {
        super::boundaries(&self.team)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Verdict};
    use crate::device::Device;
    use crate::tensor::Kind;

    #[test]
    fn every_kernel_passes_the_suite_with_the_same_bits_on_sixteen_threads() {
        for kernel in Kernel::all() {
            let device = Device::new(Cpu::with_kernel(1, kernel));
            let many = Device::new(Cpu::with_kernel(16, kernel));
            let in_f32 = conformance::check(&device).unwrap();
            let in_bf16 = conformance::check_bf16(&device, &mut |_, _| ()).unwrap();
            for (kind, verdicts) in [(Kind::F32, in_f32), (Kind::Bf16, in_bf16)] {
                let failed = |verdict: &Verdict| !verdict.passed;
                let failures: Vec<_> = verdicts.into_iter().filter(failed).collect();
                assert!(failures.is_empty(), "{} {kind:?}: {failures:?}", kernel.name());
                let [one, sixteen] =
                    [&device, &many].map(|device| conformance::outputs_of(device, kind).unwrap());
                assert!(one == sixteen, "{} {kind:?}: one thread and sixteen differ", kernel.name());
            }
        }
    }
}
