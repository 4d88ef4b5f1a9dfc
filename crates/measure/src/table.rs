//! The ops of one model's step, the longest first, each beside the time that its work takes at least.

use crate::grid::Setup;
use crate::ops::{self, OpSample};
use crate::rate::{self, Ceilings};
use crate::spread::Spread;
use lingot_device::Device;
use lingot_spec::run::Precision;
use lingot_spec::step::StepOp;
use lingot_spec::{Cost, Result};
use serde::Serialize;

/// The ops of a step. The object of `lingot bench ops --model ... --json`.
#[derive(Clone, Debug, Serialize)]
pub struct OpTable {
    /// The name of the case.
    pub model: String,
    /// What activations and working weights were held in.
    pub precision: Precision,
    /// The device's own description.
    pub device: String,
    /// What floors are computed with.
    pub ceilings: Ceilings,
    /// Seconds of whole steps.
    pub step_s: Spread,
    /// Seconds of all ops of a step.
    pub ops_s: f64,
    /// Seconds that they take at least.
    pub floor_s: f64,
    /// Seconds of the host until it has enqueued them all; 0 on a host device, which computes meanwhile.
    pub enqueue_s: f64,
    /// Ops of a step in which the host waits for the device.
    pub waits: usize,
    /// One entry per kind, form and sizes, the longest first.
    pub rows: Vec<OpRow>,
}

/// All calls of one op with the same sizes in a step.
#[derive(Clone, Debug, Serialize)]
pub struct OpRow {
    /// The op's name.
    pub op: String,
    /// Which operand is stored transposed; empty for most.
    pub form: String,
    /// Its sizes, as `spec::step` has them: `98304 x 64 x 1024`.
    pub sizes: String,
    /// Calls in a step.
    pub calls: usize,
    /// Seconds of all calls.
    pub seconds: f64,
    /// Their share of all ops.
    pub share: f64,
    /// Seconds that all calls take at least: FLOPs at the rate of products or bytes at that of copies.
    pub floor_s: f64,
    /// FLOP/s that they reach.
    pub flops_per_s: f64,
    /// Bytes per second that they reach, each operand counted once.
    pub bytes_per_s: f64,
    /// Seconds of the host until all calls have returned; 0 on a host device.
    pub enqueue_s: f64,
    /// Whether the host waits for the device in them.
    pub waits: bool,
}

/// Times the ops of a setup's step, and the device's ceilings in its precision.
pub fn measure(setup: &Setup, device: &Device, steps: usize) -> Result<OpTable> {
    let ceilings = rate::ceilings(device, setup.precision.into())?;
    let sample = ops::measure_ops(setup, device, steps)?;
    let ops_s = sample.ops.iter().map(|op| op.calls as f64 * op.seconds).sum();
    let mut rows: Vec<OpRow> = sample.ops.iter().map(|op| row(op, &ceilings, ops_s)).collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(OpTable {
        model: setup.name.clone(),
        precision: setup.precision,
        device: sample.device,
        ceilings,
        step_s: sample.step_s,
        ops_s,
        floor_s: rows.iter().map(|row| row.floor_s).sum(),
        enqueue_s: rows.iter().map(|row| row.enqueue_s).sum(),
        waits: rows.iter().filter(|row| row.waits).map(|row| row.calls).sum(),
        rows,
    })
}

fn row(sample: &OpSample, ceilings: &Ceilings, ops_s: f64) -> OpRow {
    let (op, calls) = (&sample.op, sample.calls as f64);
    let cost = work(op);
    let sizes: Vec<String> = op.sizes.iter().filter(|&&size| size > 0).map(usize::to_string).collect();
    OpRow {
        op: op.name.into(),
        form: op.form.into(),
        sizes: sizes.join(" x "),
        calls: sample.calls,
        seconds: calls * sample.seconds,
        share: calls * sample.seconds / ops_s,
        floor_s: calls * ceilings.floor_s(cost),
        flops_per_s: cost.flops / sample.seconds,
        bytes_per_s: cost.bytes / sample.seconds,
        enqueue_s: calls * sample.enqueue_s,
        waits: sample.waits,
    }
}

/// An op's FLOPs and bytes in the steps that are timed. Its own count of attention takes the batch for one
/// document; here a document is at most a sequence long.
fn work(op: &StepOp) -> Cost {
    let [tokens, sequence, ..] = op.sizes;
    if !op.name.starts_with("attention") || sequence >= tokens {
        return op.cost;
    }
    // Pairs of query and key: T / S times S (S + 1) / 2, of T (T + 1) / 2.
    Cost { flops: op.cost.flops * (sequence + 1) as f64 / (tokens + 1) as f64, ..op.cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_counted_within_sequences() {
        let pairs_of = |tokens: f64| tokens * (tokens + 1.0) / 2.0;
        let cost = Cost { flops: 4.0 * pairs_of(64.0) * 32.0, bytes: 7.0 };
        let op = |sequence| StepOp { name: "attention", form: "", sizes: [64, sequence, 2, 1, 16], cost };
        let found = work(&op(16));
        assert!((found.flops / (4.0 * 4.0 * pairs_of(16.0) * 32.0) - 1.0).abs() < 1e-12, "{found:?}");
        assert_eq!(found.bytes, 7.0);
        assert_eq!(work(&op(64)), cost);
        assert_eq!(work(&StepOp { name: "rope", ..op(16) }), cost);
    }
}
