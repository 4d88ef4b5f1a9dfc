//! Where the workers of one process hand each other numbers. Every byte that one takes from another is counted.
//!
//! Each call has the shape of an MPI collective (all-gather; all-to-all of shards, sum in rank order, all-gather), so
//! that another engine can take its place: the bits do not depend on who moves them.

use crate::sum;
use crate::traffic::NUMBER_BYTES;

/// The meeting place of a number of workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    bytes: u64,
}

impl Exchange {
    /// Bytes taken by workers from other workers since the last call.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Every worker learns every worker's number. Returns them by rank.
    pub fn gather(&mut self, numbers: &[f32]) -> Vec<f32> {
        for rank in 0..numbers.len() {
            let taken = numbers.iter().enumerate().filter(|(other, _)| *other != rank).count();
            self.bytes += NUMBER_BYTES * taken as u64;
        }
        numbers.to_vec()
    }

    /// The weighted sum of one part per worker, the same bits for all. Worker `rank` sums its shard of the numbers.
    pub fn sum(&mut self, parts: &[&[f32]], weights: &[f32]) -> Vec<f32> {
        let workers = parts.len();
        let mut whole = vec![0.0; parts.first().map_or(0, |part| part.len())];
        for rank in 0..workers {
            let (from, to) = shard(whole.len(), rank, workers);
            sum::add_weighted(&mut whole[from..to], parts, weights, from);
            let size = (to - from) as u64;
            let taken = (workers as u64 - 1) * size; // the others' values of this shard
            let given = (workers as u64 - 1) * size; // the summed shard, by each of the others
            self.bytes += NUMBER_BYTES * (taken + given);
        }
        whole
    }
}

/// The numbers that worker `rank` sums: the length is cut as evenly as it goes.
pub fn shard(length: usize, rank: usize, workers: usize) -> (usize, usize) {
    (length * rank / workers, length * (rank + 1) / workers)
}
