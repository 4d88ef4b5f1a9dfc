//! Whole numbers of the device that the host has read: reading them again would wait for the device again.
//!
//! Where experts' rows end and documents start decides the sizes of products, and the same few tensors are
//! asked for by op after op. What is written to is forgotten.

use crate::slot::SlotId;
use crate::tensor::{Place, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// Whole numbers of tensors, by where these lie.
#[derive(Default)]
pub(super) struct Known {
    numbers: HashMap<Place, Arc<[i32]>>,
    /// The number of rows that ends rise to, if the device's own sorting made them.
    ends: HashMap<Place, usize>,
}

impl Known {
    pub(super) fn get(&self, tensor: &Tensor) -> Option<Arc<[i32]>> {
        self.numbers.get(&tensor.place()).cloned()
    }

    pub(super) fn insert(&mut self, tensor: &Tensor, numbers: Arc<[i32]>) {
        self.numbers.insert(tensor.place(), numbers);
    }

    /// The number of rows that ends rise to, if the device's own sorting made them.
    pub(super) fn rises_to(&self, ends_e: &Tensor) -> Option<usize> {
        self.ends.get(&ends_e.place()).copied()
    }

    pub(super) fn insert_ends(&mut self, ends_e: &Tensor, rows: usize) {
        self.ends.insert(ends_e.place(), rows);
    }

    /// Forgets what lies in a slot that is written to or given back.
    pub(super) fn forget(&mut self, slot: SlotId) {
        self.numbers.retain(|place, _| place.slot != slot);
        self.ends.retain(|place, _| place.slot != slot);
    }
}
