//! Promise and proof: what `spec` says of a step's work against what a counting device was asked to do.

use crate::{NOTHING, Text};
use lingot_device::null::Null;
use lingot_device::{Device, Kind};
use lingot_model::{Inputs, Model, Totals};
use lingot_spec::run::Recompute;
use lingot_spec::{ModelSpec, presets};

/// FLOPs of forward and backward of one sequence, as counted.
fn counted(spec: &ModelSpec, sequence: usize, recompute: &[Recompute]) -> (f64, u64) {
    let (null, counter) = Null::new();
    let device = Device::new(null);
    let model = Model::blank(spec, &device, Kind::F32).unwrap();
    let gradients = model.gradients().unwrap();
    let text = Text::new(spec, 1, sequence);
    let inputs = Inputs::new(&device, text.rows(), spec.mtp_layers > 0).unwrap();
    let mut totals = Totals::default();
    totals.add(&text.rows(), false);
    let before = counter.take().memory.now_bytes;
    model.differentiate(&inputs, totals, None, recompute, &gradients).unwrap();
    let count = counter.take();
    (count.ops.iter().map(|(_, cost)| cost.flops).sum(), count.memory.peak_bytes - before)
}

#[test]
fn a_step_costs_the_flops_that_the_model_promises() {
    for name in ["toy", "toy-v1", "small", "ling-lite", "ling-plus", "ling-mini-2.0"] {
        let spec = presets::preset(name).unwrap();
        let sequence = 1024;
        let promised = spec.flops_per_token(sequence) * f64::from(sequence);
        let (counted, _) = counted(&spec, sequence as usize, NOTHING);
        // The promise takes half of queries x keys and six FLOPs per score; the backward pass computes the
        // scores again, which the promise leaves out as it leaves out all recomputation.
        let again = f64::from(spec.layers + spec.mtp_layers)
            * f64::from(spec.heads * spec.head_width)
            * f64::from(sequence).powi(2);
        let ratio = counted / (promised + again);
        assert!(
            (ratio - 1.0).abs() < 0.002,
            "{name}: promised {promised:.4e}, counted {counted:.4e}, {ratio}"
        );
    }
}

#[test]
fn recomputation_trades_work_for_memory() {
    let spec = presets::preset("ling-mini-2.0").unwrap();
    let [nothing, experts, block] = [Recompute::Nothing, Recompute::Experts, Recompute::Block]
        .map(|policy| counted(&spec, 4096, &[policy]));
    assert!(nothing.1 > experts.1 && experts.1 > block.1, "{nothing:?} {experts:?} {block:?}");
    assert!(nothing.0 < experts.0 && experts.0 < block.0, "{nothing:?} {experts:?} {block:?}");
}
