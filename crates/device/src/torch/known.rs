//! Whole numbers of the device's that the host has read: reading them again would wait for the device again.
//!
//! Where experts' rows end and documents start decides the sizes of products, and the same few tensors are asked for by
//! op after op. What is written to is forgotten.

use crate::backend::Slot;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// By slot, first byte and bytes of a tensor.
#[derive(Default)]
pub(super) struct Known(HashMap<(Slot, usize, usize), Arc<[i32]>>);

impl Known {
    pub(super) fn get(&self, tensor: &Tensor) -> Option<Arc<[i32]>> {
        self.0.get(&tensor.place()).cloned()
    }

    pub(super) fn insert(&mut self, tensor: &Tensor, numbers: Arc<[i32]>) {
        self.0.insert(tensor.place(), numbers);
    }

    /// The slot is written to, or given back.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.0.retain(|&(known, _, _), _| known != slot);
    }
}
