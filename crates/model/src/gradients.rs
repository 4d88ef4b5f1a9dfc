//! What a step adds up: gradients, losses, expert loads.

use crate::bundle::Bundle;
use crate::inputs::Totals;
use crate::tally::{Losses, Tally};
use crate::weights::Weight;
use lingot_device::{Device, Flip, Kind, Result, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::tensors::{TensorSpec, spans};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// The sums of a step's gradients, losses and loads, over all its micro-batches.
///
/// A gradient by a matrix is a product, and the first micro-batch of a step writes it instead of adding it to
/// zeros. So only what is added up otherwise is cleared before a step: much less than all.
pub struct Gradients {
    /// The gradients, laid out as the parameters are.
    pub bundle: Bundle,
    /// The losses and loads.
    pub tally: Tally,
    /// The numbers of the bundle that are only ever added to.
    added: Vec<Range<usize>>,
    /// Whether no micro-batch of the step was differentiated yet.
    is_fresh: AtomicBool,
}

impl Gradients {
    /// Zeros for the gradients of `model`, of the given kind of sums.
    pub(crate) fn new(model: &ModelSpec, device: &Device, kind: Kind) -> Result<Gradients> {
        let bundle = Bundle::zeros(model, device, kind)?;
        let added = spans(&bundle.specs, |tensor: &TensorSpec| tensor.is_only_added_to(model));
        Ok(Gradients { bundle, tally: Tally::new(model, device, kind)?, added, is_fresh: true.into() })
    }

    /// Begins a step: what its micro-batches only add to becomes zero, and the first of them will overwrite
    /// the rest.
    pub fn clear(&self) -> Result<()> {
        for span in &self.added {
            ops::fill(&self.bundle.flat.rows(span.start, span.len()), 0.0)?;
        }
        self.is_fresh.store(true, Ordering::Relaxed);
        self.tally.clear()
    }

    /// Whether gradients by matrices are added to those of micro-batches before this one, not written.
    pub(crate) fn adds(&self) -> bool {
        !self.is_fresh.load(Ordering::Relaxed)
    }

    /// Ends a micro-batch.
    pub(crate) fn end_micro_batch(&self) {
        self.is_fresh.store(false, Ordering::Relaxed);
    }

    /// Adds `d^T x` to the gradient by a matrix, d being the gradient by its outputs and x its inputs.
    pub(crate) fn add_product(&self, weight: &Weight, d: &Tensor, x: &Tensor) -> Result<()> {
        ops::matmul_to(self.of(weight), d, x, Flip::A, self.adds())
    }

    /// As `add_product`, by the matrix of each expert over its rows, which end at `ends`.
    pub(crate) fn add_products(
        &self,
        weight: &Weight,
        d: &Tensor,
        x: &Tensor,
        ends_e: &Tensor,
    ) -> Result<()> {
        ops::grouped_matmul_weights(d, x, ends_e, self.of(weight), self.adds())
    }

    /// The gradient of a parameter tensor, of its shape.
    pub(crate) fn of(&self, weight: &Weight) -> &Tensor {
        &self.bundle.tensors[weight.index]
    }

    /// The losses of a step of `totals`, in sequences of `sequence` tokens. Waits for the device.
    pub fn losses(&self, model: &ModelSpec, totals: Totals, sequence: usize) -> Result<Losses> {
        Ok(self.tally.counts()?.losses(model, totals, sequence))
    }
}
