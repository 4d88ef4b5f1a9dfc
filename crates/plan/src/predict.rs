//! What a training step will take on a measured device: `plan::predict::step` is what the planner and the ledger ask.

use crate::profile::Profile;
use lingot_spec::ModelSpec;
use lingot_spec::step::{self, Batch, StepMemory};
use std::collections::BTreeMap;

/// A step's time and memory on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    pub seconds: f64,
    /// Of the whole process at its highest.
    pub memory_bytes: u64,
    /// Of the tensors alone, by part.
    pub tensors: StepMemory,
    /// Seconds by the op's name, the longest first; what no op takes is called `(between ops)`.
    pub by_op: Vec<(String, f64)>,
    /// Ops the profile knows nothing of; their time is missing.
    pub unknown: Vec<&'static str>,
}

/// Predicts one step of `model` on the device of `profile`: the sum over the step's ops, and what lies between them.
pub fn step(model: &ModelSpec, batch: &Batch<'_>, profile: &Profile) -> Prediction {
    let step = step::step(model, batch);
    let mut by_op: BTreeMap<String, f64> = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut known = std::collections::HashMap::new();
    for op in &step.ops {
        let seconds = *known.entry((op.name, op.form, op.sizes)).or_insert_with(|| profile.seconds(op));
        match seconds {
            Some(seconds) => *by_op.entry(op.name.to_owned()).or_default() += seconds,
            None if unknown.contains(&op.name) => {}
            None => unknown.push(op.name),
        }
    }
    let [per_op, per_byte] = profile.between_s;
    let between_s = per_op * step.ops.len() as f64 + per_byte * step.cost().bytes;
    by_op.insert("(between ops)".into(), between_s);
    let mut by_op: Vec<(String, f64)> = by_op.into_iter().collect();
    by_op.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    Prediction {
        seconds: by_op.iter().map(|(_, seconds)| seconds).sum(),
        memory_bytes: step.memory.pooled_bytes + profile.base_bytes,
        tensors: step.memory,
        by_op,
        unknown,
    }
}
