//! A device whose ops go to a function of the caller's. Recording, timing and planting faults are such
//! functions.

use crate::backend::{Backend, Wrapper};
use crate::device::Device;
use crate::error::Result;
use crate::op::Op;

/// The device.
pub struct Intercepted<F> {
    inner: Device,
    run: F,
}

impl<F: Fn(&Op<'_>) -> Result<()> + Send + Sync> Intercepted<F> {
    /// `inner`, whose ops go to `run`, which calls `inner` itself if the op is to run.
    pub fn new(inner: Device, run: F) -> Intercepted<F> {
        Intercepted { inner, run }
    }
}

impl<F: Fn(&Op<'_>) -> Result<()> + Send + Sync> Wrapper for Intercepted<F> {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        (self.run)(op)
    }
}
