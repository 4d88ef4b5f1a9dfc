//! Pieces of a device's memory: who handed them out, how long they are, and that each is given back once.

use crate::error::{Error, Result};
use crate::op::Op;
use std::sync::atomic::{AtomicU64, Ordering};

/// A piece of one backend's memory.
///
/// A slot cannot be made up, copied or given back twice: only an [`Owner`] makes one, and
/// [`release`](crate::Backend::release) consumes it. Dropping one without giving it back leaks its memory.
///
/// ```compile_fail,E0451
/// let forged = lingot_device::Slot { owner: 1, number: 0xdead_beef, bytes: 8 };
/// ```
///
/// ```compile_fail,E0599
/// # use lingot_device::{Backend, cpu::Cpu};
/// let cpu = Cpu::new(1);
/// let slot = cpu.allocate(8).unwrap();
/// cpu.release(slot.clone());
/// cpu.release(slot);
/// ```
///
/// ```compile_fail,E0382
/// # use lingot_device::{Backend, cpu::Cpu};
/// let cpu = Cpu::new(1);
/// let slot = cpu.allocate(8).unwrap();
/// cpu.release(slot);
/// cpu.release(slot);
/// ```
#[derive(Debug)]
#[must_use = "memory that is not released stays taken"]
pub struct Slot {
    owner: u64,
    number: u64,
    bytes: usize,
}

/// The name of a slot among those in use. A name says nothing about where the memory is, and gives no access
/// to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    owner: u64,
    number: u64,
}

impl Slot {
    /// The length that was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The slot's name. A later slot may get it again once this one is released.
    pub fn id(&self) -> SlotId {
        SlotId { owner: self.owner, number: self.number }
    }

    /// The number, for a backend of this crate that has checked the owner.
    pub(crate) fn address(&self) -> u64 {
        self.number
    }

    /// Leaves a slot behind that no backend accepts.
    pub(crate) fn take(&mut self) -> Slot {
        std::mem::replace(self, Slot { owner: 0, number: 0, bytes: 0 })
    }
}

/// The identity of one backend that has memory of its own. It makes the backend's slots and recognises them.
///
/// What a slot's number means is up to the owner, who alone can read it: for `cpu` it is an address. So a
/// backend keeps its owner to itself, and checks each slot and op that it is given.
#[derive(Debug)]
pub struct Owner(u64);

impl Owner {
    /// An owner unlike all others of this process.
    #[expect(clippy::new_without_default, reason = "no two owners are equal, so none is the default")]
    pub fn new() -> Owner {
        static OWNERS: AtomicU64 = AtomicU64::new(1);
        Owner(OWNERS.fetch_add(1, Ordering::Relaxed))
    }

    /// A slot of `bytes` bytes under a number of the owner's choice.
    pub fn slot(&self, number: u64, bytes: usize) -> Slot {
        Slot { owner: self.0, number, bytes }
    }

    /// The number under which the slot was made. Errors if another owner made it.
    pub fn number(&self, slot: &Slot) -> Result<u64> {
        if slot.owner == self.0 { Ok(slot.number) } else { Err(Error::Foreign { what: "a slot" }) }
    }

    /// The slot's number, for a copy of `bytes` bytes from `offset_bytes` on. Errors if another owner made
    /// the slot, or if the copy would reach beyond its end.
    pub fn number_of_range(&self, slot: &Slot, offset_bytes: usize, bytes: usize) -> Result<u64> {
        let number = self.number(slot)?;
        let end = offset_bytes.checked_add(bytes);
        if end.is_some_and(|end| end <= slot.bytes) {
            return Ok(number);
        }
        Err(Error::Beyond { offset_bytes, bytes, slot_bytes: slot.bytes })
    }

    /// Errors if an operand of `op` is in memory of another owner.
    pub fn check(&self, op: &Op<'_>) -> Result<()> {
        let mut slots = op.operands().map(|operand| operand.tensor.slot());
        if slots.all(|slot| slot.owner == self.0) { Ok(()) } else { Err(Error::Foreign { what: op.name() }) }
    }
}
