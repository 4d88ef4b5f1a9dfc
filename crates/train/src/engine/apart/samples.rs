//! Which samples come next, in slices of one step of one worker.

use lingot_spec::run::RunSpec;
use std::collections::VecDeque;

/// The samples of a run whose workers are apart.
pub(super) struct Samples {
    /// The first sample that was never given out.
    pub(super) next: u64,
    /// Slices that were given to workers that were lost, by their first sample.
    pub(super) holes: VecDeque<u64>,
    /// Samples of a slice.
    pub(super) share: u32,
    /// Samples of the whole run.
    end: u64,
}

impl Samples {
    /// For `workers` workers that share every batch of the run equally.
    pub(super) fn new(run: &RunSpec, workers: usize) -> Samples {
        Samples {
            next: 0,
            holes: VecDeque::new(),
            share: run.batch.sequences / workers as u32,
            end: run.stop.steps * u64::from(run.batch.sequences),
        }
    }

    /// Gives out the next slice, by its first sample; none when the run has no more.
    pub(super) fn take(&mut self) -> Option<u64> {
        if let Some(hole) = self.holes.pop_front() {
            return Some(hole);
        }
        let first = self.next;
        self.has_fresh().then(|| {
            self.next += u64::from(self.share);
            first
        })
    }

    /// Takes slices back that were not trained on.
    pub(super) fn give_back(&mut self, slices: impl IntoIterator<Item = u64>) {
        self.holes.extend(slices);
        self.holes.make_contiguous().sort_unstable();
    }

    /// Whether there is another slice.
    pub(super) fn has_more(&self) -> bool {
        !self.holes.is_empty() || self.has_fresh()
    }

    fn has_fresh(&self) -> bool {
        self.next + u64::from(self.share) <= self.end
    }

    /// Samples that were trained on.
    pub(super) fn trained(&self) -> u64 {
        self.next - self.holes.len() as u64 * u64::from(self.share)
    }
}
