//! Gradients as they come in, and how they add up: in the order of the batch, whichever worker is done first.

use crate::crew::Computed;
use lingot_model::Counts;
use lingot_spec::event::Piece;
use lingot_sync::sum;
use std::collections::BTreeMap;
use std::ops::Range;

/// The results of one step.
#[derive(Default)]
pub(super) struct Results {
    /// Not yet added up, by their first micro-batch: those before them are missing.
    waiting: BTreeMap<usize, Computed>,
    sum: Sum,
    /// Who computed what, in the order of the batch.
    pieces: BTreeMap<usize, Piece>,
    /// Moved between host and devices.
    pub(super) bytes: u64,
    /// Ranges whose gradients are not finite: another worker is asked.
    doubted: Vec<Doubt>,
}

/// The sum of the batch's first micro-batches.
#[derive(Default)]
struct Sum {
    micros: usize,
    gradients: Vec<f32>,
    counts: Counts,
}

/// A range that one worker computed to numbers that are not finite.
struct Doubt {
    worker: usize,
    range: Range<usize>,
}

/// What a piece changes.
pub(super) enum Verdict {
    Counts,
    /// Its numbers are not finite: another worker shall compute it as well.
    Doubted(Range<usize>),
    /// It is finite where this worker's numbers were not.
    Refutes(usize),
}

impl Results {
    /// Takes in a piece. `is_alone`: there is no other worker that could be asked.
    pub(super) fn add(&mut self, worker: usize, piece: Computed, is_alone: bool) -> Verdict {
        let within =
            |doubt: &Doubt| doubt.range.start <= piece.range.start && piece.range.end <= doubt.range.end;
        let doubt = self.doubted.iter().position(within);
        let verdict = match doubt {
            None if !piece.is_finite && !is_alone => {
                self.doubted.push(Doubt { worker, range: piece.range.clone() });
                return Verdict::Doubted(piece.range);
            }
            Some(index) if piece.is_finite && self.doubted[index].worker != worker => {
                Verdict::Refutes(self.doubted.remove(index).worker)
            }
            _ => Verdict::Counts,
        };
        self.bytes += piece.moved.bytes;
        self.pieces.insert(piece.range.start, Piece { worker, micros: piece.range.len() });
        self.waiting.insert(piece.range.start, piece);
        verdict
    }

    /// Adds up what follows on what was added up already, while other workers still compute. Returns memory
    /// that is left over.
    pub(super) fn add_up(&mut self) -> Vec<Vec<f32>> {
        let mut left_over = Vec::new();
        while let Some(piece) = self.waiting.remove(&self.sum.micros) {
            let is_first = self.sum.micros == 0;
            self.sum.micros = piece.range.end;
            if is_first {
                (self.sum.gradients, self.sum.counts) = (piece.gradients, piece.counts);
            } else {
                sum::add(&mut self.sum.gradients, &piece.gradients);
                self.sum.counts.add(&piece.counts);
                left_over.push(piece.gradients);
            }
        }
        left_over
    }

    /// Who computed what, in the order of the batch.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        self.pieces.values().copied().collect()
    }

    /// The summed gradients.
    pub(super) fn gradients(&self) -> &[f32] {
        &self.sum.gradients
    }

    /// The summed tallies.
    pub(super) fn counts(&self) -> &Counts {
        &self.sum.counts
    }

    /// Gives up the memory of the gradients.
    pub(super) fn take_gradients(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.sum.gradients)
    }
}
