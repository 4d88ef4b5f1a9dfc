//! What a strategy keeps between meetings, as tensors of a checkpoint.
//!
//! `sync/<rank>/first`, `sync/<rank>/second` (moments of the workers beside the lead), `sync/velocity`,
//! `sync/samples`, and `sync/detectors/<group>/<rank>`. There is none while workers are in step.

use super::Local;
use crate::checkpoint::Tensor;
use crate::error::{Error, Result};
use crate::worker::Worker;
use lingot_sync::penalty::Detector;

/// An f32 holds integers up to 2^24.
const HALF: u64 = 1 << 24;

impl Local {
    /// For the checkpoint that comes next.
    pub fn keep(&self, lead: &mut Worker<'_>) -> Result<()> {
        lead.sync_state.clear();
        if !self.are_apart {
            return Ok(());
        }
        let state = &mut lead.sync_state;
        let samples = vec![(self.samples / HALF) as f32, (self.samples % HALF) as f32];
        state.push(tensor("sync/samples".into(), samples));
        state.push(tensor("sync/velocity".into(), self.agreed.velocity.clone()));
        for (index, other) in self.others.iter().enumerate() {
            let [first, second] = other.optimizer.flats();
            state.push(tensor(format!("sync/{}/first", index + 1), first.to_floats()?));
            state.push(tensor(format!("sync/{}/second", index + 1), second.to_floats()?));
        }
        for group in &self.agreed.groups {
            for (rank, detector) in group.detectors.iter().enumerate() {
                state.push(tensor(format!("sync/detectors/{}/{rank}", group.name), detector.to_numbers()));
            }
        }
        Ok(())
    }

    /// From the lead's checkpoint. A worker that it does not know begins as the lead is.
    pub(super) fn restore(&mut self, lead: &mut Worker<'_>) -> Result<()> {
        let state = std::mem::take(&mut lead.sync_state);
        let find = |name: &str| {
            state.iter().find(|(found, _, _)| found == name).map(|(_, _, values)| values.as_slice())
        };
        let Some([high, low]) = find("sync/samples") else { return Ok(()) };
        self.samples = *high as u64 * HALF + *low as u64;
        self.follow(lead)?;
        let length = self.agreed.velocity.len();
        self.agreed.velocity = sized("sync/velocity", find("sync/velocity"), length)?.to_vec();
        for (index, other) in self.others.iter().enumerate() {
            for (moments, name) in other.optimizer.flats().into_iter().zip(["first", "second"]) {
                let name = format!("sync/{}/{name}", index + 1);
                if let Some(values) = find(&name) {
                    moments.write_floats(sized(&name, Some(values), length)?)?;
                }
            }
        }
        for group in &mut self.agreed.groups {
            for (rank, detector) in group.detectors.iter_mut().enumerate() {
                let numbers = find(&format!("sync/detectors/{}/{rank}", group.name));
                *detector = numbers.and_then(Detector::from_numbers).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn sized<'a>(name: &str, values: Option<&'a [f32]>, length: usize) -> Result<&'a [f32]> {
    values.filter(|values| values.len() == length).ok_or_else(|| {
        let found = values.map_or(0, <[f32]>::len);
        Error::damaged(format!("`{name}` has {found} numbers, the model has {length}"))
    })
}

fn tensor(name: String, values: Vec<f32>) -> Tensor {
    (name, vec![values.len()], values)
}
