//! Time and memory of a training step on a measured device.

use crate::profile::{Call, Profile};
use lingot_spec::ModelSpec;
use lingot_spec::step::{self, Batch};
use std::collections::HashMap;

/// Predicted time and memory of a step on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Seconds of the step.
    pub seconds: f64,
    /// Peak memory of the whole process; on an accelerator that of its tensors.
    pub memory_bytes: u64,
    /// Ops that the profile has no measurement of; their time is missing.
    pub unknown: Vec<&'static str>,
}

/// Predicts one step of `model` on the device of `profile`: the ops one after the other as the host enqueues
/// them, and the time between them. An accelerator takes up an op once the host has enqueued it and the op
/// before is done; a host device computes while it is called.
pub fn step(model: &ModelSpec, batch: &Batch<'_>, profile: &Profile) -> Prediction {
    let step = step::step(model, batch);
    let mut unknown = Vec::new();
    let mut known = HashMap::new();
    let (mut host_s, mut device_s) = (0.0_f64, 0.0_f64);
    for op in &step.ops {
        match *known.entry((op.name, op.form, op.sizes)).or_insert_with(|| profile.call(op)) {
            Some(Call { seconds, waits: true, .. }) => {
                device_s = device_s.max(host_s) + seconds;
                host_s = device_s;
            }
            Some(Call { seconds, enqueue_s, .. }) => {
                host_s += enqueue_s;
                device_s = device_s.max(host_s) + seconds;
            }
            None if unknown.contains(&op.name) => {}
            None => unknown.push(op.name),
        }
    }
    let [per_op, per_byte] = profile.between_s;
    let between_s = per_op * step.ops.len() as f64 + per_byte * step.cost().bytes;
    let is_of_accelerator = profile.is_of_accelerator();
    let tensors = if is_of_accelerator { step.memory.peak_bytes } else { step.memory.pooled_bytes };
    Prediction { seconds: device_s + between_s, memory_bytes: tensors + profile.base_bytes, unknown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Measured, Point, Subject};
    use lingot_spec::cost::Widths;
    use lingot_spec::presets::preset;
    use lingot_spec::run::{Precision, Recompute};

    /// A device on which every op takes 10 us and every call of the host this long.
    fn predicted(enqueue_s: f64, waits: bool) -> (f64, usize) {
        let model = preset("toy").unwrap();
        let recompute = [Recompute::Nothing];
        let (widths, warming) = (Widths::BF16, false);
        let batch = Batch { micro: 1, micros: 1, sequence: 64, recompute: &recompute, warming, widths };
        let ops = step::step(&model, &batch).ops;
        let measured = ops.iter().map(|op| Measured {
            op: op.name.into(),
            form: op.form.into(),
            point: Point { sizes: op.sizes, seconds: 1e-5, range_s: [1e-5, 1e-5] },
            enqueue_s,
            waits,
        });
        let precision = Precision::Bf16;
        let subject = Subject { device: "a, b".into(), threads: 0, precision, base_bytes: 0, links: None };
        let profile = Profile::fit(subject, measured.collect(), &[]);
        (step(&model, &batch, &profile).seconds, ops.len())
    }

    #[test]
    fn the_slower_of_host_and_device_decides() {
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.02, "{found}");
        let (seconds, ops) = predicted(1e-6, false);
        near(seconds, 1e-5 * ops as f64);
        near(predicted(5e-5, false).0, 5e-5 * ops as f64);
        near(predicted(5e-5, true).0, 1e-5 * ops as f64);
    }
}
