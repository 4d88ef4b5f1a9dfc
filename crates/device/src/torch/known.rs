//! Whole numbers of the device that the host knows: what it wrote there itself, and what it has read before.
//! Reading them again would wait for the device.
//!
//! Where documents start and experts' rows end decides the sizes of products, and the same few tensors are
//! asked for by op after op. What is written to is forgotten.

use super::documents::Documents;
use crate::slot::SlotId;
use crate::tensor::{Place, Tensor};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Larger copies to the device are not remembered.
const MOST_BYTES: usize = 1 << 20;

/// No more copies than these are remembered.
const MOST_COPIES: usize = 64;

/// Whole numbers of tensors, by where these lie.
#[derive(Default)]
pub(super) struct Known {
    /// What the host wrote last, oldest first.
    copies: VecDeque<HostCopy>,
    numbers: HashMap<Place, Arc<[i32]>>,
    documents: HashMap<Place, Arc<Documents>>,
    /// The number of rows that ends rise to, if the device's own sorting made them.
    ends: HashMap<Place, usize>,
}

/// Bytes that the host wrote into a slot.
struct HostCopy {
    slot: SlotId,
    offset_bytes: usize,
    bytes: Box<[u8]>,
}

impl Known {
    /// The numbers of a tensor, if the host has written or read them.
    pub(super) fn get(&mut self, tensor: &Tensor) -> Option<Arc<[i32]>> {
        let place = tensor.place();
        if let Some(numbers) = self.numbers.get(&place) {
            return Some(numbers.clone());
        }
        let numbers: Arc<[i32]> = self.copies.iter().find_map(|copy| copy.part(place))?;
        self.numbers.insert(place, numbers.clone());
        Some(numbers)
    }

    pub(super) fn insert(&mut self, tensor: &Tensor, numbers: Arc<[i32]>) {
        self.numbers.insert(tensor.place(), numbers);
    }

    /// Takes note of what the host has written into a slot of which nothing is known any more.
    pub(super) fn write(&mut self, slot: SlotId, offset_bytes: usize, bytes: &[u8]) {
        if bytes.is_empty() || bytes.len() > MOST_BYTES {
            return;
        }
        if self.copies.len() == MOST_COPIES {
            self.copies.pop_front();
        }
        self.copies.push_back(HostCopy { slot, offset_bytes, bytes: bytes.into() });
    }

    /// The documents that a tensor of starts tells of, once they have been found.
    pub(super) fn documents(&self, starts_t: &Tensor) -> Option<Arc<Documents>> {
        self.documents.get(&starts_t.place()).cloned()
    }

    pub(super) fn insert_documents(&mut self, starts_t: &Tensor, documents: Arc<Documents>) {
        self.documents.insert(starts_t.place(), documents);
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
        self.copies.retain(|copy| copy.slot != slot);
        self.numbers.retain(|place, _| place.slot != slot);
        self.documents.retain(|place, _| place.slot != slot);
        self.ends.retain(|place, _| place.slot != slot);
    }
}

impl HostCopy {
    /// The whole numbers that lie at `place`, if the copy holds all of them.
    fn part(&self, place: Place) -> Option<Arc<[i32]>> {
        let first = place.offset_bytes.checked_sub(self.offset_bytes).filter(|_| place.slot == self.slot)?;
        Some(whole_numbers(self.bytes.get(first..first + place.bytes)?))
    }
}

/// Whole numbers as they lie in memory.
pub(super) fn whole_numbers(bytes: &[u8]) -> Arc<[i32]> {
    bytes.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}
