//! A device as the rest of the program sees it: it makes tensors and runs the ops on them.

use crate::backend::{Backend, DeviceInfo, MemoryUse, Wrapper};
use crate::boundary::Boundary;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::tensor::{Kind, Tensor, elements};
use std::fmt;
use std::sync::Arc;

/// A device that holds tensors and runs ops. Cheap to clone; every tensor carries one.
#[derive(Clone)]
pub struct Device(Arc<dyn Backend>);

impl Device {
    /// A device on top of `backend`.
    pub fn new(backend: impl Backend + 'static) -> Device {
        Device(Arc::new(backend))
    }

    /// What the device says about itself.
    pub fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    /// Waits for all enqueued work.
    pub fn finish(&self) -> Result<()> {
        self.0.finish()
    }

    /// Bytes that tensors take now, and the most they took since the peak was last restarted.
    pub fn memory_in_use(&self) -> MemoryUse {
        self.0.memory_in_use()
    }

    /// Restarts the peak of [`Device::memory_in_use`] from what is in use now.
    pub fn restart_peak(&self) {
        self.0.restart_peak();
    }

    /// Sizes at which the device changes how it computes an op.
    pub fn boundaries(&self) -> Vec<Boundary> {
        self.0.boundaries()
    }

    /// How ops reach the device, one line each, for people; empty where there is one way only.
    pub fn routes(&self) -> Vec<String> {
        self.0.routes()
    }

    /// Whether both are the same device.
    pub fn is(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A tensor of unspecified content.
    pub fn empty(&self, shape: &[usize], kind: Kind) -> Result<Tensor> {
        let bytes = elements(shape).and_then(|elements| elements.checked_mul(kind.bytes()));
        let bytes = bytes.ok_or_else(|| Error::OutOfMemory {
            device: self.info().name.clone(),
            needs_bytes: u64::MAX,
            has_bytes: self.info().memory_bytes,
        })?;
        let slot = self.0.allocate(bytes)?;
        if slot.bytes() < bytes {
            return Err(Error::Beyond { offset_bytes: 0, bytes, slot_bytes: slot.bytes() });
        }
        Ok(Tensor::new(self.clone(), slot, shape, kind))
    }

    /// A tensor of zeros.
    pub fn zeros(&self, shape: &[usize], kind: Kind) -> Result<Tensor> {
        let tensor = self.empty(shape, kind)?;
        crate::ops::fill(&tensor, 0.0)?;
        Ok(tensor)
    }

    /// A tensor of a kind of floats with the given values, rounded to it.
    ///
    /// ```
    /// # use lingot_device::{cpu::Cpu, Device, Kind};
    /// let device = Device::new(Cpu::new(1));
    /// let x = device.floats(&[1.0, 2.0, 3.0, 4.0], &[2, 2], Kind::F32)?;
    /// assert_eq!(x.rows(1, 1).to_floats()?, [3.0, 4.0]);
    /// # Ok::<(), lingot_device::Error>(())
    /// ```
    pub fn floats(&self, values: &[f32], shape: &[usize], kind: Kind) -> Result<Tensor> {
        let tensor = self.empty(shape, kind)?;
        tensor.write_floats(values)?;
        Ok(tensor)
    }

    /// A tensor of whole numbers.
    pub fn integers(&self, values: &[i32], shape: &[usize]) -> Result<Tensor> {
        let tensor = self.empty(shape, Kind::I32)?;
        tensor.write_integers(values)?;
        Ok(tensor)
    }

    /// Enqueues an op whose shapes a front door has checked. Errors if an operand is of another kind than the
    /// op declares, or if an output overlaps another operand.
    pub(crate) fn enqueue<'a>(&self, op: impl Into<Op<'a>>) -> Result<()> {
        let op = op.into();
        op.check_kinds()?;
        op.check_overlaps()?;
        self.0.run(&op)
    }
}

/// A device is a backend too, so that a wrapper can stand before it: see [`crate::wrappers`].
impl Wrapper for Device {
    fn inner(&self) -> &dyn Backend {
        &*self.0
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.info().name)
    }
}
