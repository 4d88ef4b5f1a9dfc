//! What a strategy keeps between meetings, as tensors of a checkpoint.
//!
//! `sync/<worker>/first`, `sync/<worker>/second` (moments; those of an emulated lead are the run's own),
//! `sync/velocity`, `sync/samples`, `sync/holes` (samples that were given to a device that was lost), and
//! `sync/detectors/<group>/<worker>`. There is none while workers are in step.

use super::{Agreed, Local};
use crate::checkpoint::Tensor;
use crate::worker::Worker;
use lingot_spec::problem::{Problem, Result};
use lingot_sync::penalty::Detector;

/// An f32 holds integers up to 2^24.
const HALF: u64 = 1 << 24;

/// The tensors of a checkpoint that begin with `sync/`.
pub(crate) struct Kept(pub(crate) Vec<Tensor>);

impl Kept {
    pub(crate) fn find(&self, name: &str) -> Option<&[f32]> {
        self.0.iter().find(|(found, _, _)| found == name).map(|(_, _, values)| values.as_slice())
    }

    /// A tensor of the model's size.
    pub(crate) fn sized(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        let found = self.find(name);
        found.filter(|values| values.len() == length).map(<[f32]>::to_vec).ok_or_else(|| {
            let found = found.map_or(0, <[f32]>::len);
            Problem::damaged(format!("`{name}` has {found} numbers, the model has {length}"))
        })
    }

    /// Whole numbers.
    pub(crate) fn numbers(&self, name: &str) -> Vec<u64> {
        let halves = self.find(name).unwrap_or_default();
        halves.chunks_exact(2).map(|pair| pair[0] as u64 * HALF + pair[1] as u64).collect()
    }

    /// A worker's moments; none where the checkpoint does not know it.
    pub(crate) fn moments(&self, worker: usize, length: usize) -> Result<Option<[Vec<f32>; 2]>> {
        let [first, second] = ["first", "second"].map(|name| format!("sync/{worker}/{name}"));
        if self.find(&first).is_none() {
            return Ok(None);
        }
        Ok(Some([self.sized(&first, length)?, self.sized(&second, length)?]))
    }
}

impl Agreed {
    /// For the checkpoint that comes next.
    pub(crate) fn keep(&self, state: &mut Vec<Tensor>) {
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

    pub(crate) fn restore(&mut self, kept: &Kept) -> Result<()> {
        self.velocity = kept.sized("sync/velocity", self.velocity.len())?;
        for group in &mut self.groups {
            for (worker, detector) in group.detectors.iter_mut().enumerate() {
                let numbers = kept.find(&format!("sync/detectors/{}/{worker}", group.layer.name));
                *detector = numbers.and_then(Detector::from_numbers).unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl Local {
    /// For the checkpoint that comes next.
    pub fn keep(&self, lead: &mut Worker<'_>) -> Result<()> {
        lead.sync_state.clear();
        if !self.are_apart {
            return Ok(());
        }
        let state = &mut lead.sync_state;
        state.push(number("sync/samples", &[self.samples]));
        for (index, other) in self.others.iter().enumerate() {
            let [first, second] = other.optimizer.flats();
            state.push(tensor(format!("sync/{}/first", index + 1), first.to_floats()?));
            state.push(tensor(format!("sync/{}/second", index + 1), second.to_floats()?));
        }
        self.agreed.keep(state);
        Ok(())
    }

    /// From the lead's checkpoint. A worker that it does not know begins as the lead is.
    pub(super) fn restore(&mut self, lead: &mut Worker<'_>) -> Result<()> {
        let kept = Kept(std::mem::take(&mut lead.sync_state));
        let [samples] = kept.numbers("sync/samples")[..] else { return Ok(()) };
        self.samples = samples;
        self.follow(lead)?;
        self.agreed.restore(&kept)?;
        let length = self.agreed.weights.len();
        for (index, other) in self.others.iter().enumerate() {
            if let Some(moments) = kept.moments(index + 1, length)? {
                let flats = other.optimizer.flats();
                flats.into_iter().zip(&moments).try_for_each(|(flat, values)| flat.write_floats(values))?;
            }
        }
        Ok(())
    }
}

/// Whole numbers as a tensor.
pub(crate) fn number(name: &str, numbers: &[u64]) -> Tensor {
    let halves = numbers.iter().flat_map(|number| [(number / HALF) as f32, (number % HALF) as f32]);
    tensor(name.into(), halves.collect())
}

pub(crate) fn tensor(name: String, values: Vec<f32>) -> Tensor {
    (name, vec![values.len()], values)
}
