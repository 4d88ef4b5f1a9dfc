//! What workers apart need besides weights and state, as tensors of a checkpoint.
//!
//! Worker 0's moments are the run's own, `first/...` and `second/...`; those of the others
//! `sync/<worker>/first` and `sync/<worker>/second`. Then `sync/velocity`, `sync/samples`, `sync/holes`
//! (slices that were given to a worker that was lost), and `sync/detectors/<group>/<worker>`. There is none
//! of `sync/` while workers are in step. Older checkpoints also have `sync/0/...`, which then counts instead
//! of the run's own.

use super::Apart;
use super::agreed::Agreed;
use crate::checkpoint::{Flat, Snapshot, Tensor};
use crate::crew::Moments;
use crate::home::Home;
use lingot_spec::problem::{Problem, Result};
use lingot_sync::penalty::Detector;
use std::sync::Arc;

/// An f32 holds integers up to 2^24.
const HALF: u64 = 1 << 24;

impl Apart {
    /// Copies the last meeting, with the moments that were collected last. Asks no worker.
    pub(super) fn store(&mut self, home: &Home) -> Result<Snapshot> {
        self.sum_all();
        let own = self.moments.get(&0).ok_or_else(|| Problem::bug("worker 0 never had moments"))?;
        let flat =
            Flat { weights: &self.agreed.weights, moments: [&own[0], &own[1]], state: &self.agreed.state };
        let mut snapshot = Snapshot::from_host(&home.model.spec, &flat);
        let state = &mut snapshot.moments;
        state.push(number("sync/samples", &[self.samples.next]));
        if !self.samples.holes.is_empty() {
            state.push(number("sync/holes", &self.samples.holes.iter().copied().collect::<Vec<u64>>()));
        }
        for (worker, moments) in self.moments.iter().filter(|(worker, _)| **worker > 0) {
            for (name, values) in ["first", "second"].iter().zip(moments.iter()) {
                state.push(tensor(format!("sync/{worker}/{name}"), values.clone()));
            }
        }
        self.agreed.store(state);
        Ok(snapshot)
    }

    /// Goes on from the `sync/` tensors of a checkpoint whose other numbers are in the home; nothing happens
    /// where there are none.
    pub(super) fn restore(&mut self, home: &Home, first_sample: u64, sync: Vec<Tensor>) -> Result<()> {
        let stored = Stored(sync);
        let [next] = stored.numbers("sync/samples")[..] else { return Ok(()) };
        self.begin(home, first_sample)?;
        (self.samples.next, self.samples.holes) = (next, stored.numbers("sync/holes").into());
        self.agreed.restore(&stored)?;
        let length = self.agreed.weights.len();
        for worker in 0..self.in_step.fleet.len() {
            if let Some(moments) = stored.moments(worker, length)? {
                self.moments.insert(worker, Arc::new(moments));
            }
        }
        Ok(())
    }
}

/// The tensors of a checkpoint that begin with `sync/`.
struct Stored(Vec<Tensor>);

impl Stored {
    fn find(&self, name: &str) -> Option<&[f32]> {
        self.0.iter().find(|(found, _, _)| found == name).map(|(_, _, values)| values.as_slice())
    }

    /// Returns a tensor of the model's size.
    fn sized(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        let found = self.find(name);
        found.filter(|values| values.len() == length).map(<[f32]>::to_vec).ok_or_else(|| {
            let found = found.map_or(0, <[f32]>::len);
            Problem::damaged(format!("`{name}` has {found} numbers, the model has {length}"))
        })
    }

    /// Returns whole numbers.
    fn numbers(&self, name: &str) -> Vec<u64> {
        let halves = self.find(name).unwrap_or_default();
        halves.chunks_exact(2).map(|pair| pair[0] as u64 * HALF + pair[1] as u64).collect()
    }

    /// Returns a worker's moments; none where the checkpoint does not know the worker.
    fn moments(&self, worker: usize, length: usize) -> Result<Option<Moments>> {
        let [first, second] = ["first", "second"].map(|name| format!("sync/{worker}/{name}"));
        if self.find(&first).is_none() {
            return Ok(None);
        }
        Ok(Some([self.sized(&first, length)?, self.sized(&second, length)?]))
    }
}

impl Agreed {
    fn store(&self, state: &mut Vec<Tensor>) {
        state.push(tensor("sync/velocity".into(), self.velocity.clone()));
        for group in &self.groups {
            for (worker, detector) in group.detectors.iter().enumerate() {
                state.push(tensor(
                    format!("sync/detectors/{}/{worker}", group.layer.name),
                    detector.to_numbers(),
                ));
            }
        }
    }

    fn restore(&mut self, stored: &Stored) -> Result<()> {
        self.velocity = stored.sized("sync/velocity", self.velocity.len())?;
        for group in &mut self.groups {
            for (worker, detector) in group.detectors.iter_mut().enumerate() {
                let numbers = stored.find(&format!("sync/detectors/{}/{worker}", group.layer.name));
                *detector = numbers.and_then(Detector::from_numbers).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// Makes a tensor of whole numbers, two f32 each.
fn number(name: &str, numbers: &[u64]) -> Tensor {
    let halves = numbers.iter().flat_map(|number| [(number / HALF) as f32, (number % HALF) as f32]);
    tensor(name.into(), halves.collect())
}

fn tensor(name: String, values: Vec<f32>) -> Tensor {
    (name, vec![values.len()], values)
}
