//! Weights on their way from the host: each layer is taken as the forward pass reaches it.

use super::{Moved, bytes_of};
use lingot_device::{Error, Result};
use lingot_model::{Model, Pass, Seam};
use lingot_spec::tensors::Layer;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Layers that the host is sending.
pub(super) struct Arriving {
    from_host: Receiver<Arc<Vec<f32>>>,
    /// How many of the first layers are here.
    arrived: usize,
    /// What was taken so far.
    pub(super) moved: Moved,
    /// Time spent waiting for the host.
    pub(super) waited: Duration,
}

/// The seam through which they arrive; gradients stay on the device.
pub(super) struct Arrival<'a> {
    /// None where all layers are here.
    pub(super) arriving: &'a RefCell<Option<Arriving>>,
    pub(super) layers: &'a [Layer],
    pub(super) model: &'a Model,
}

impl Seam for Arrival<'_> {
    fn arrive(&self, layer: &Layer, _pass: Pass) -> Result<()> {
        match &mut *self.arriving.borrow_mut() {
            Some(arriving) => arriving.reach(&layer.name, self.layers, self.model),
            None => Ok(()),
        }
    }

    fn leave(&self, _layer: &Layer) -> Result<()> {
        Ok(())
    }
}

impl Arriving {
    pub(super) fn new(from_host: Receiver<Arc<Vec<f32>>>) -> Arriving {
        Arriving { from_host, arrived: 0, moved: Moved::default(), waited: Duration::ZERO }
    }

    /// Takes layers until the one of that name is here.
    pub(super) fn reach(&mut self, layer: &str, layers: &[Layer], model: &Model) -> Result<()> {
        while self.arrived < layers.len() && !layers[..self.arrived].iter().any(|here| here.name == layer) {
            let begin = Instant::now();
            let gone = |_| Error::Lost {
                device: "the host".into(),
                reason: "it gave up the exchange of weights".into(),
            };
            let weights = self.from_host.recv().map_err(gone)?;
            let received = Instant::now();
            let Layer { numbers, .. } = &layers[self.arrived];
            model.overwrite(numbers.start, &weights)?;
            self.arrived += 1;
            self.waited += received - begin;
            self.moved.add(Moved { bytes: bytes_of([&*weights]), time: received.elapsed() });
        }
        Ok(())
    }
}
