//! Gradients that are zero before anything is added to them: clearing them, and reading the zeros back to add
//! to them, would pass over all their memory twice.
//!
//! A large f32 tensor that is filled with 0 is only noted. A product that would be added to a part of it is
//! written there instead; whatever else touches a part has that part cleared first.

use super::Torch;
use super::refusal::Refusal;
use crate::op::{Access, Op};
use crate::slot::{Slot, SlotId};
use crate::tensor::{Kind, Place, Tensor};
use std::collections::HashMap;
use std::ops::Range;

/// Smaller tensors are cleared at once.
const LEAST_BYTES: usize = 1 << 18;

/// Bytes of slots that count as zero and hold anything. Those of one slot do not overlap.
#[derive(Default)]
pub(super) struct Cleared {
    stretches: HashMap<SlotId, Vec<Range<usize>>>,
}

impl Cleared {
    /// Notes that a place counts as zero, none of whose bytes did.
    fn insert(&mut self, place: Place) {
        self.stretches.entry(place.slot).or_default().push(bytes_of(place));
    }

    /// Whether all of a place counts as zero.
    fn holds(&self, place: Place) -> bool {
        let bytes = bytes_of(place);
        let holds = |own: &Range<usize>| own.start <= bytes.start && bytes.end <= own.end;
        self.stretches.get(&place.slot).is_some_and(|stretches| stretches.iter().any(holds))
    }

    /// The parts of a place that count as zero, and do no more.
    fn take(&mut self, place: Place) -> Vec<Range<usize>> {
        let Some(stretches) = self.stretches.get_mut(&place.slot) else { return vec![] };
        let (bytes, mut taken) = (bytes_of(place), vec![]);
        for own in std::mem::take(stretches) {
            let common = own.start.max(bytes.start)..own.end.min(bytes.end);
            if common.is_empty() {
                stretches.push(own);
                continue;
            }
            let rest = [own.start..common.start, common.end..own.end];
            stretches.extend(rest.into_iter().filter(|rest| !rest.is_empty()));
            taken.push(common);
        }
        if stretches.is_empty() {
            self.stretches.remove(&place.slot);
        }
        taken
    }

    /// Forgets a slot that is given back.
    pub(super) fn forget(&mut self, slot: SlotId) {
        self.stretches.remove(&slot);
    }
}

/// The bytes of a place, in whole f32.
fn bytes_of(place: Place) -> Range<usize> {
    place.offset_bytes / 4 * 4..(place.offset_bytes + place.bytes).next_multiple_of(4)
}

impl Torch {
    /// Clears what an op touches of memory that only counts as zero. Sums that a product is added to are left
    /// to [`Torch::onto`].
    pub(super) fn settle_operands(&self, op: &Op<'_>) -> Result<(), Refusal> {
        let adds_product = matches!(op, Op::MatMul(_) | Op::GroupedMatMulWeights(_));
        for operand in op.operands() {
            if !(adds_product && operand.access == Access::Update) {
                self.settle(operand.tensor.slot(), operand.tensor.place())?;
            }
        }
        Ok(())
    }

    /// Clears what only counts as zero of a place.
    pub(super) fn settle(&self, slot: &Slot, place: Place) -> Result<(), Refusal> {
        // Under the lock, so that no other thread finds it settled and reads before it is.
        let mut state = self.state();
        for bytes in state.cleared.take(place) {
            let f32 = self.torch.dtypes.f32;
            let count = bytes.len() as i64 / 4;
            self.with_slot(slot, |slot| slot.typed(f32, &[count], &[1], bytes.start))?.fill(0.0)?;
        }
        Ok(())
    }

    /// Fills with 0, or notes it; returns whether it did.
    pub(super) fn note_zeros(&self, out: &Tensor, value: f64) -> bool {
        let is_noted = out.kind() == Kind::F32 && value.to_bits() == 0 && out.place().bytes >= LEAST_BYTES;
        if is_noted {
            let mut state = self.state();
            // What counts as zero already is part of it.
            state.cleared.take(out.place());
            state.cleared.insert(out.place());
        }
        is_noted
    }

    /// Runs a product that is added to `out`, or, as `run` is told, written there because that counts as
    /// zero. If it fails, `out` is as it was.
    pub(super) fn onto(
        &self,
        out: &Tensor,
        run: impl FnOnce(bool) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let place = out.place();
        if !self.state().cleared.holds(place) {
            self.settle(out.slot(), place)?;
            return run(true);
        }
        run(false)?;
        self.state().cleared.take(place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Owner;

    #[test]
    fn what_is_taken_from_a_stretch_leaves_what_lies_before_and_after() {
        let owner = Owner::new();
        let (slot, other) = (owner.slot(1, 100).id(), owner.slot(2, 100).id());
        let place = |slot, bytes: Range<usize>| Place { slot, offset_bytes: bytes.start, bytes: bytes.len() };
        let mut cleared = Cleared::default();
        cleared.insert(place(slot, 0..100));
        assert!(cleared.holds(place(slot, 20..40)) && !cleared.holds(place(other, 20..40)));
        let take = |cleared: &mut Cleared, of, bytes| {
            cleared.take(place(of, bytes)).iter().map(|taken| (taken.start, taken.end)).collect::<Vec<_>>()
        };
        assert_eq!(take(&mut cleared, slot, 20..40), [(20, 40)]);
        assert!(!cleared.holds(place(slot, 8..32)));
        assert_eq!(take(&mut cleared, slot, 8..60), [(8, 20), (40, 60)]);
        assert_eq!(take(&mut cleared, other, 0..100), []);
        cleared.forget(slot);
        assert!(!cleared.holds(place(slot, 0..4)));
    }
}
