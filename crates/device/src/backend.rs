//! What a vendor must provide to train a model.
//!
//! # Why safe code cannot break a backend
//!
//! A backend runs kernels on raw memory, so it relies on what it is given:
//!
//! * A [`Slot`] comes from the backend that made it: its fields are private, it is neither `Clone` nor
//!   `Copy`, and `release` consumes it. So memory cannot be freed twice or used afterwards. Tensors lend
//!   their slot only by reference.
//! * Each backend has an [`Owner`](crate::Owner) of its own. It checks that a slot is one of its own, and
//!   that a copy ends within the slot, before it touches memory.
//! * An [`Op`] is built by the front doors in [`crate::ops`] alone, which check shapes and kinds; that
//!   nothing written overlaps another operand is checked in one place, when the op is enqueued. Outside this
//!   crate ops are only seen behind a reference, so that none can be built or changed after it was checked.
//!   An op may reach another backend than the one it was built for, through a wrapper: the owner refuses
//!   operands that are not its own.
//! * A host backend runs one op or copy at a time, behind a lock.

use crate::boundary::Boundary;
use crate::error::Result;
use crate::op::Op;
use crate::slot::Slot;

/// What a device says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name, as in `device.name` of a run: `cpu`, `reference`, `torch:cuda:0`.
    pub name: String,
    /// The kind of hardware and how it is used, for people.
    pub description: String,
    /// Memory that tensors may take, in bytes; 0 if unknown.
    pub memory_bytes: u64,
    /// Host threads that compute; 0 if the host does not.
    pub threads: usize,
}

impl DeviceInfo {
    /// Whether the device computes while its host enqueues: an accelerator.
    pub fn is_accelerator(&self) -> bool {
        self.threads == 0
    }
}

/// All a chip must be able to do. Work is only enqueued; [`finish`](Backend::finish) waits.
///
/// Ops come checked from the front doors in [`crate::ops`]. A backend with memory of its own checks that
/// slots and operands are its own, by its [`Owner`](crate::Owner). One that stands before another implements
/// [`Wrapper`] instead.
pub trait Backend: Send + Sync {
    /// What the device says about itself.
    fn info(&self) -> &DeviceInfo;
    /// Returns memory of `bytes` bytes, of unspecified content.
    fn allocate(&self, bytes: usize) -> Result<Slot>;
    /// Takes memory back. A slot of another backend is ignored.
    fn release(&self, slot: Slot);
    /// Copies `from_host` into the slot, `offset_bytes` from its beginning.
    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()>;
    /// Waits for the work enqueued so far, then copies out of the slot.
    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()>;
    /// Enqueues one op.
    fn run(&self, op: &Op<'_>) -> Result<()>;
    /// Waits for all enqueued work.
    fn finish(&self) -> Result<()>;
    /// Bytes that slots take now, and the most they took since the peak was last restarted. Changes nothing.
    fn memory_in_use(&self) -> MemoryUse;
    /// Restarts the peak of [`memory_in_use`](Backend::memory_in_use) from what is in use now.
    fn restart_peak(&self);
    /// Sizes at which ops change how they are computed: a suite tries both sides of each.
    fn boundaries(&self) -> Vec<Boundary> {
        vec![]
    }
    /// How ops reach the device, one line each, for people; empty where there is one way only.
    fn routes(&self) -> Vec<String> {
        vec![]
    }
}

/// A backend that stands before another and changes some of what it does: it times ops, records them, or
/// slows them down.
///
/// What a wrapper does not define goes to the backend behind it, and so do the slots that it hands out.
pub trait Wrapper: Send + Sync {
    /// The backend behind this one.
    fn inner(&self) -> &dyn Backend;
    /// See [`Backend::info`].
    fn info(&self) -> &DeviceInfo {
        self.inner().info()
    }
    /// See [`Backend::allocate`].
    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.inner().allocate(bytes)
    }
    /// See [`Backend::release`].
    fn release(&self, slot: Slot) {
        self.inner().release(slot);
    }
    /// See [`Backend::write`].
    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.inner().write(slot, offset_bytes, from_host)
    }
    /// See [`Backend::read`].
    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.inner().read(slot, offset_bytes, to_host)
    }
    /// See [`Backend::run`].
    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.inner().run(op)
    }
    /// See [`Backend::finish`].
    fn finish(&self) -> Result<()> {
        self.inner().finish()
    }
}

impl<W: Wrapper> Backend for W {
    fn info(&self) -> &DeviceInfo {
        Wrapper::info(self)
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        Wrapper::allocate(self, bytes)
    }

    fn release(&self, slot: Slot) {
        Wrapper::release(self, slot);
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        Wrapper::write(self, slot, offset_bytes, from_host)
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        Wrapper::read(self, slot, offset_bytes, to_host)
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        Wrapper::run(self, op)
    }

    fn finish(&self) -> Result<()> {
        Wrapper::finish(self)
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.inner().memory_in_use()
    }

    fn restart_peak(&self) {
        self.inner().restart_peak();
    }

    fn boundaries(&self) -> Vec<Boundary> {
        self.inner().boundaries()
    }

    fn routes(&self) -> Vec<String> {
        self.inner().routes()
    }
}

/// Bytes held by tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes in use.
    pub now_bytes: u64,
    /// The most that were in use at once.
    pub peak_bytes: u64,
}

impl MemoryUse {
    /// Counts an allocation.
    pub fn add(&mut self, bytes: usize) {
        self.now_bytes += bytes as u64;
        self.peak_bytes = self.peak_bytes.max(self.now_bytes);
    }

    /// Counts a release.
    pub fn subtract(&mut self, bytes: usize) {
        self.now_bytes -= bytes as u64;
    }

    /// Restarts the peak from what is in use now.
    pub fn restart_peak(&mut self) {
        self.peak_bytes = self.now_bytes;
    }
}
