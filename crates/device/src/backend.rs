//! What a vendor must provide to train a model: seven functions.

use crate::error::Result;
use crate::op::Op;

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As in `device.name` of a run: `cpu`, `reference`, `null`.
    pub name: String,
    /// What a person would call it.
    pub description: String,
    /// Memory that tensors may take; 0 where nobody knows.
    pub memory_bytes: u64,
    /// Threads that compute.
    pub threads: usize,
}

/// A piece of a device's memory. Only the backend that gave it out knows what the number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u64);

/// All a chip must be able to do. Work is only enqueued; `finish` waits.
///
/// The front doors in [`crate::ops`] have checked every shape and type, and that no output overlaps an input.
pub trait Backend: Send + Sync {
    fn info(&self) -> &DeviceInfo;
    /// Memory of `bytes` bytes. Its content is unspecified.
    fn allocate(&self, bytes: usize) -> Result<Slot>;
    /// Gives memory back. `bytes` is what was asked for.
    fn release(&self, slot: Slot, bytes: usize);
    /// Copies `from_host` into the slot, `offset_bytes` from its beginning.
    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()>;
    /// Waits for the work enqueued so far, then copies out of the slot.
    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()>;
    /// Enqueues one op.
    fn run(&self, op: Op<'_>) -> Result<()>;
    /// Waits for all that was enqueued.
    fn finish(&self) -> Result<()>;
    /// Bytes in use by tensors now, and the most there were since the last call of this function.
    fn memory_in_use(&self) -> MemoryUse {
        MemoryUse::default()
    }
}

/// Bytes held by tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub now_bytes: u64,
    pub peak_bytes: u64,
}
