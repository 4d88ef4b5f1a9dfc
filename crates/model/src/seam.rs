//! The seam: where a layer's weights arrive before they are read, and where its gradient leaves once it is
//! complete.
//!
//! The model reads one layer at a time, so a device that cannot hold all layers can hold a few and refill
//! them. A micro-batch passes the layers in this order (in brackets: with multi-token prediction; a tied head
//! is the layer `embedding`):
//!
//! ```text
//! forward   embedding, layers.0, ..., final_norm
//! head      head (backward), final_norm (backward)
//! [mtp      embedding, final_norm, mtp, head (backward), mtp (backward), embedding (gradient),
//!           final_norm (backward)]
//! backward  layers.N, ..., layers.0, embedding (gradient)
//! ```

use lingot_device::Result;
use lingot_spec::tensors::Layer;

/// What the model does with a layer that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Reads the weights.
    Forward,
    /// Reads the weights and adds to the gradient. The head has only this pass in training: loss and gradient
    /// are one op.
    Backward,
    /// Adds to the gradient and reads no weight: the embedding's backward pass.
    Gradient,
}

/// Where weights come from and gradients go to. The model calls it for every layer of
/// [`lingot_spec::tensors::layers`].
///
/// The ops of a layer are enqueued between its arrival and the next call of either method, not necessarily
/// executed: an implementor that overwrites or reads a layer's memory orders this after the device's work, as
/// the device's `write` and `read` do. Outside of that span the model reads neither the layer's weights nor
/// its gradient, so their memory may hold anything. The routers' buffers (selection biases, logit statistics)
/// do not pass the seam; they stay on the device.
pub trait Seam {
    /// Makes the weights of `layer` readable, and unless the pass is `Forward` its gradient holds what was
    /// added to it before, or what clearing left. May be called several times for one layer and pass: the
    /// embedding's and the head's weights are read by multi-token prediction again. Errors if the weights
    /// cannot be brought; the model then stops.
    fn arrive(&self, layer: &Layer, pass: Pass) -> Result<()>;

    /// Takes the gradient of `layer`, which is complete for this micro-batch: called once per layer and
    /// micro-batch, at the end of the layer's last span or, for final norm and head, later. Errors if the
    /// gradient cannot be taken; the model then stops.
    fn leave(&self, layer: &Layer) -> Result<()>;
}

/// The seam of a device that holds all layers: nothing moves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident;

impl Seam for Resident {
    fn arrive(&self, _layer: &Layer, _pass: Pass) -> Result<()> {
        Ok(())
    }

    fn leave(&self, _layer: &Layer) -> Result<()> {
        Ok(())
    }
}

/// A layer's weights, which are given out only as they arrive.
pub(crate) struct Gated<T> {
    layer: Layer,
    weights: T,
}

impl<T> Gated<T> {
    pub(crate) fn new(layer: Layer, weights: T) -> Gated<T> {
        Gated { layer, weights }
    }

    /// The weights, arrived for `pass`.
    pub(crate) fn arrive(&self, seam: &dyn Seam, pass: Pass) -> Result<&T> {
        seam.arrive(&self.layer, pass)?;
        Ok(&self.weights)
    }

    /// Says that the layer's gradient is complete.
    pub(crate) fn leave(&self, seam: &dyn Seam) -> Result<()> {
        seam.leave(&self.layer)
    }
}
