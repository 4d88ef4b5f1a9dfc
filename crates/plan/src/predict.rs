//! Time and memory of a training step on a measured device.

use crate::profile::Profile;
use lingot_spec::ModelSpec;
use lingot_spec::step::{self, Batch};
use std::collections::HashMap;

/// Predicted time and memory of a step on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Seconds of the step.
    pub seconds: f64,
    /// Peak memory of the whole process.
    pub memory_bytes: u64,
    /// Ops that the profile has no measurement of; their time is missing.
    pub unknown: Vec<&'static str>,
}

/// Predicts one step of `model` on the device of `profile`: the sum over the step's ops, and the time between
/// them.
pub fn step(model: &ModelSpec, batch: &Batch<'_>, profile: &Profile) -> Prediction {
    let step = step::step(model, batch);
    let mut unknown = Vec::new();
    let mut known = HashMap::new();
    let mut seconds = 0.0;
    for op in &step.ops {
        match *known.entry((op.name, op.form, op.sizes)).or_insert_with(|| profile.seconds(op)) {
            Some(measured) => seconds += measured,
            None if unknown.contains(&op.name) => {}
            None => unknown.push(op.name),
        }
    }
    let [per_op, per_byte] = profile.between_s;
    seconds += per_op * step.ops.len() as f64 + per_byte * step.cost().bytes;
    Prediction { seconds, memory_bytes: step.memory.pooled_bytes + profile.base_bytes, unknown }
}
