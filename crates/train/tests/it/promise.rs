//! Promise and proof: `spec::step` against what a counting device was asked to do in a real step, op by op.
//!
//! The counting device prices an op by `spec::cost` too, so two small models are also counted by hand,
//! operand by operand, in `by_hand`. Its memory is an independent count: it sees every allocation.

mod by_hand;

use super::random::Random;
use lingot_device::null::{Count, Null};
use lingot_device::{Device, Kind};
use lingot_model::{Inputs, Model, Noise, Rows, Totals, Warmth};
use lingot_spec::cost::Widths;
use lingot_spec::run::{OptimizerSpec, Recompute};
use lingot_spec::step::{Batch, Step, StepMemory, step};
use lingot_spec::{ModelSpec, Score, presets};
use lingot_train::optimizer::Optimizer;

/// The batch of a step, with the recompute policies it borrows.
struct Case {
    micro: usize,
    micros: usize,
    sequence: usize,
    recompute: Vec<Recompute>,
    warming: bool,
    kind: Kind,
}

impl Case {
    fn promised(&self, model: &ModelSpec) -> Step {
        let Case { micro, micros, sequence, ref recompute, warming, kind } = *self;
        let widths = Widths { values: kind.bytes(), sums: kind.sums().bytes() };
        step(model, &Batch { micro, micros, sequence, recompute, warming, widths })
    }
}

/// One step as the worker takes it, on a device that counts; besides its count, what the standing parts hold.
fn counted(spec: &ModelSpec, case: &Case) -> (Count, StepMemory) {
    let (null, counter) = Null::new();
    let device = Device::new(null);
    let in_use = || counter.take().memory.now_bytes;
    let model = Model::blank(spec, &device, case.kind).unwrap();
    let weights_bytes = in_use();
    let gradients = model.gradients().unwrap();
    let gradients_bytes = in_use() - weights_bytes;
    let optimizer = Optimizer::new(&model).unwrap();
    let moments_bytes = in_use() - weights_bytes - gradients_bytes;
    let standing = StepMemory { weights_bytes, gradients_bytes, moments_bytes, ..StepMemory::default() };

    let t = case.micro * case.sequence;
    let (tokens, targets) = (vec![0; t], vec![0; t]);
    let starts: Vec<i32> = (0..t).map(|at| (at - at % case.sequence) as i32).collect();
    let positions: Vec<i32> = (0..t).map(|at| (at % case.sequence) as i32).collect();
    let rows = Rows {
        tokens_t: &tokens,
        targets_t: &targets,
        starts_t: &starts,
        positions_t: &positions,
        sequence: case.sequence,
    };
    let has_mtp = spec.mtp_layers > 0;
    let mut totals = Totals::default();
    (0..case.micros).for_each(|_| totals.add(&rows, has_mtp));
    let noise = |_: usize| vec![0.0; t * spec.experts as usize];
    let warmth = case.warming.then_some(Warmth { keep: 0.5, noise: Noise::Drawn(&noise) });
    gradients.clear().unwrap();
    for _ in 0..case.micros {
        let inputs = Inputs::new(&device, rows, has_mtp).unwrap();
        model.differentiate(&inputs, totals, warmth, &case.recompute, &gradients).unwrap();
    }
    gradients.losses(spec, totals, case.sequence).unwrap();
    optimizer.gradient_norm(&gradients).unwrap();
    optimizer.update(&model, &gradients, &OptimizerSpec::default(), 1e-3, 1).unwrap();
    model.balance(&gradients.tally).unwrap();
    (counter.take(), standing)
}

fn compare(name: &str, spec: &ModelSpec, case: &Case) {
    let promised = case.promised(spec);
    let (counted, standing) = counted(spec, case);
    // The counting began before the step: making the tensors filled them with zeros.
    let made = counted.ops.len() - promised.ops.len().min(counted.ops.len());
    assert_eq!(made, 0, "{name}: ops");
    for (at, (promise, (op, cost))) in promised.ops.iter().zip(&counted.ops).enumerate() {
        assert_eq!((promise.name, promise.cost), (*op, *cost), "{name}: op {at}");
    }
    let memory = promised.memory;
    assert_eq!(memory.peak_bytes, counted.memory.peak_bytes, "{name}: peak");
    let weights = |memory: &StepMemory| memory.weights_bytes + memory.masters_bytes;
    let parts = |memory: &StepMemory| {
        weights(memory) + memory.gradients_bytes + memory.moments_bytes + memory.state_bytes
    };
    assert_eq!(parts(&memory), counted.memory.now_bytes, "{name}: standing parts");
    assert_eq!(parts(&memory), parts(&standing), "{name}: standing parts as they were made");
    let state_bytes = weights(&standing) - weights(&memory) + standing.gradients_bytes
        - memory.gradients_bytes
        + standing.moments_bytes
        - memory.moments_bytes;
    assert_eq!(memory.state_bytes, state_bytes, "{name}: state");
}

#[test]
fn every_preset_runs_the_ops_and_takes_the_memory_that_were_promised() {
    for name in presets::NAMES {
        let spec = presets::preset(name).unwrap();
        for policy in [Recompute::Nothing, Recompute::Experts, Recompute::Block] {
            for (micro, micros, sequence) in [(1, 1, 128), (2, 2, 64)] {
                for kind in [Kind::F32, Kind::Bf16] {
                    let recompute = vec![policy];
                    let case = Case { micro, micros, sequence, recompute, warming: false, kind };
                    compare(&format!("{name} {kind:?} {policy:?} {micro} x {micros}"), &spec, &case);
                }
            }
        }
    }
}

#[test]
fn random_models_run_the_ops_and_take_the_memory_that_were_promised() {
    let mut random = Random(11);
    let mut compared = 0;
    while compared < 200 {
        let spec = random_model(&mut random);
        if spec.check().is_err() {
            continue;
        }
        let policies = [Recompute::Nothing, Recompute::Experts, Recompute::Block];
        let case = Case {
            micro: 1 + random.below(4),
            micros: 1 + random.below(3),
            sequence: 1 + random.below(40),
            recompute: (0..1 + random.below(spec.layers as usize + 1))
                .map(|_| policies[random.below(3)])
                .collect(),
            warming: spec.router.warmup_steps > 0 && random.below(2) == 0,
            kind: [Kind::F32, Kind::Bf16][compared % 2],
        };
        compare(&format!("{spec:?} {:?}", case.recompute), &spec, &case);
        compared += 1;
    }
}

fn random_model(random: &mut Random) -> ModelSpec {
    let kv_heads = 1 + random.below(3) as u32;
    let groups = 1 + random.below(4) as u32;
    let experts = groups * (1 + random.below(6) as u32);
    let layers = 1 + random.below(4) as u32;
    let mut spec = ModelSpec {
        vocabulary: 2 + random.below(400) as u32,
        width: 1 + random.below(48) as u32,
        layers,
        heads: kv_heads * (1 + random.below(3) as u32),
        kv_heads,
        head_width: 2 + random.below(12) as u32,
        dense_layers: random.below(layers as usize + 1) as u32,
        dense_width: 1 + random.below(60) as u32,
        experts,
        choices: 1 + random.below(experts as usize) as u32,
        expert_width: 1 + random.below(40) as u32,
        shared_experts: random.below(3) as u32,
        qk_norm: random.below(2) == 0,
        rotary_width: 2,
        norm_head: random.below(2) == 0,
        tied: random.below(2) == 0,
        mtp_layers: random.below(2) as u32,
        ..presets::preset("toy").unwrap()
    };
    let router = &mut spec.router;
    router.score = if random.below(2) == 0 { Score::Softmax } else { Score::Sigmoid };
    (router.groups, router.groups_kept) = (groups, 1 + random.below(groups as usize) as u32);
    router.selection_bias = random.below(2) == 0;
    router.balance_sequences = 1 + random.below(2) as u32;
    router.warmup_steps = random.below(2) as u64;
    spec
}
