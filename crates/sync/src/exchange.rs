//! The exchange of numbers between the workers of one process. Every byte that one receives from another is
//! counted.
//!
//! Each call has the shape of an MPI collective (all-gather; all-to-all of shards, sum in rank order,
//! all-gather), so that another engine can take its place: the bits do not depend on who moves them.

use crate::sum;
use crate::traffic::NUMBER_BYTES;
use std::ops::Range;

/// Collectives over the workers, and the bytes that they would move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    bytes: u64,
}

impl Exchange {
    /// Returns the bytes that workers received from each other since the last call.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Gives every worker every worker's number; returns them by rank.
    pub fn gather(&mut self, numbers: &[f32]) -> Vec<f32> {
        for rank in 0..numbers.len() {
            let taken = numbers.iter().enumerate().filter(|(other, _)| *other != rank).count();
            self.bytes += NUMBER_BYTES * taken as u64;
        }
        numbers.to_vec()
    }

    /// Returns the weighted sum of one part per worker, the same bits for all. Each worker sums its shard of
    /// the numbers.
    pub fn sum(&mut self, parts: &[&[f32]], weights: &[f32]) -> Vec<f32> {
        let workers = parts.len();
        let mut whole = vec![0.0; parts.first().map_or(0, |part| part.len())];
        for rank in 0..workers {
            let numbers = shard(whole.len(), rank, workers);
            let (from, size) = (numbers.start, numbers.len() as u64);
            sum::add_weighted(&mut whole[numbers], parts, weights, from);
            let taken = (workers as u64 - 1) * size; // the others' values of this shard
            let given = (workers as u64 - 1) * size; // the summed shard, by each of the others
            self.bytes += NUMBER_BYTES * (taken + given);
        }
        whole
    }
}

/// Returns the shard of `length` numbers that worker `rank` sums. Shards are as even as possible.
pub fn shard(length: usize, rank: usize, workers: usize) -> Range<usize> {
    length * rank / workers..length * (rank + 1) / workers
}
