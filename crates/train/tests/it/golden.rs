//! Losses, every gradient and ten optimizer steps against PyTorch: an independent implementation, and the
//! classes of `transformers` where the architecture exists there. `scripts/reference` makes the files.

use lingot_device::cpu::Cpu;
use lingot_device::reference::Reference;
#[cfg(unix)]
use lingot_device::torch::{Options, Torch};
use lingot_device::{Device, Kind};
use lingot_model::{Bundle, Gradients, Inputs, Model, Noise, Rows, Totals, Warmth};
use lingot_spec::ModelSpec;
use lingot_spec::run::{OptimizerSpec, Recompute};
use lingot_spec::tensors::buffers;
use lingot_train::optimizer::Optimizer;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// Relative to the norm of what is compared.
const TOLERANCE: f64 = 1e-5;

struct Case {
    name: &'static str,
    folder: PathBuf,
    spec: ModelSpec,
    expected: Value,
    batches: Vec<u8>,
}

impl Case {
    fn open(name: &'static str) -> Case {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
        let text = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let spec: ModelSpec = serde_json::from_str(&text("spec.json")).unwrap();
        spec.check().unwrap();
        let expected = serde_json::from_str(&text("expected.json")).unwrap();
        let batches = fs::read(folder.join("batches.safetensors")).unwrap();
        Case { name, spec, expected, batches, folder }
    }

    /// The model with the case's initial weights and router state.
    fn model(&self, device: &Device, kind: Kind) -> Model {
        let bytes = fs::read(self.folder.join("initial.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut model = Model::blank(&self.spec, device, kind).unwrap();
        let read = |name: &str| doubles(&file, name);
        for (spec, tensor) in model.parameters.specs.iter().zip(&model.parameters.tensors) {
            tensor.write_doubles(&read(&spec.name)).unwrap();
        }
        let state: Vec<Vec<f32>> = buffers(&self.spec)
            .iter()
            .map(|buffer| read(&buffer.name).into_iter().map(|value| value as f32).collect())
            .collect();
        model.set_buffers(&state).unwrap();
        model
    }

    /// Forward and backward of batch `step`.
    fn differentiate(&self, model: &Model, gradients: &Gradients, step: usize) -> Totals {
        let file = SafeTensors::deserialize(&self.batches).unwrap();
        let [tokens, targets, starts, positions] =
            ["tokens", "targets", "starts", "positions"].map(|name| integers(&file, name, step));
        let sequence = self.expected["sequence"].as_u64().unwrap() as usize;
        let rows = Rows {
            tokens_t: &tokens,
            targets_t: &targets,
            starts_t: &starts,
            positions_t: &positions,
            sequence,
        };
        let mtp = self.spec.mtp_layers > 0;
        let mut totals = Totals::default();
        totals.add(&rows, mtp);
        let noise = |layer: usize| {
            let all = doubles(&file, &format!("noise/layers.{layer}"));
            let count = tokens.len() * self.spec.experts as usize;
            all[step * count..(step + 1) * count].iter().map(|&value| value as f32).collect()
        };
        let keep = self.expected["keep"][step].as_f64().unwrap();
        let warmth =
            (self.spec.router.warmup_steps > 0).then_some(Warmth { keep, noise: Noise::Drawn(&noise) });
        gradients.clear().unwrap();
        let inputs = Inputs::new(&model.device, rows, mtp).unwrap();
        model.differentiate(&inputs, totals, warmth, &[Recompute::Nothing], gradients).unwrap();
        totals
    }
}

fn doubles(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    match view.dtype() {
        safetensors::Dtype::F64 => {
            view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        _ => view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
    }
}

fn integers(file: &SafeTensors<'_>, name: &str, row: usize) -> Vec<i32> {
    let view = file.tensor(name).unwrap();
    let width = view.shape()[1];
    let all = view.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()));
    all.skip(row * width).take(width).collect()
}

/// `|found - wanted| / |wanted|`, by the Euclidean norm.
fn distance(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(wanted).map(|(found, wanted)| found - wanted));
    difference / norm(&mut wanted.iter().copied()).max(1e-12)
}

fn assert_close(what: &str, found: f64, wanted: f64, tolerance: f64) {
    let error = (found - wanted).abs() / wanted.abs().max(1.0);
    assert!(error < tolerance, "{what}: {found}, PyTorch has {wanted}");
}

/// The losses of step `step`, its loads, and the gradient's norm.
fn check_losses(
    case: &Case,
    model: &Model,
    gradients: &Gradients,
    totals: Totals,
    step: usize,
    tolerance: f64,
) {
    let wanted = &case.expected["steps"][step];
    let sequence = case.expected["sequence"].as_u64().unwrap() as usize;
    let losses = gradients.losses(&case.spec, totals, sequence).unwrap();
    let named = [
        ("main", losses.main),
        ("mtp", losses.mtp),
        ("balance", losses.balance),
        ("z", losses.z),
        ("total", losses.total),
    ];
    for (part, found) in named {
        if let Some(wanted) = wanted[part].as_f64() {
            assert_close(&format!("{}, step {step}, {part}", case.name), found, wanted, tolerance);
        }
    }
    let loads: Vec<&Value> =
        wanted["loads"].as_object().map(|loads| loads.values().collect()).unwrap_or_default();
    for (found, wanted) in gradients.tally.loads().unwrap().iter().zip(loads) {
        let wanted: Vec<i32> = serde_json::from_value(wanted.clone()).unwrap();
        assert_eq!(*found, wanted, "{}, step {step}: loads", case.name);
    }
    assert_eq!(model.spec, case.spec);
}

fn check_gradients(case: &Case, bundle: &Bundle, tolerance: f64) {
    let bytes = fs::read(case.folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (spec, tensor) in bundle.specs.iter().zip(&bundle.tensors) {
        let wanted = doubles(&file, &format!("grad/{}", spec.name));
        let error = distance(&tensor.to_doubles().unwrap(), &wanted);
        assert!(error < tolerance, "{}: gradient by {} is off by {error:.2e}", case.name, spec.name);
    }
}

fn ten_steps(case: &Case, device: &Device, kind: Kind, tolerance: f64) {
    let model = case.model(device, kind);
    let gradients = model.gradients().unwrap();
    let optimizer = Optimizer::new(&model).unwrap();
    let numbers = &case.expected["hyperparameters"];
    let number = |key: &str| numbers[key].as_f64().unwrap();
    let spec = OptimizerSpec {
        rate: 0.0,
        beta1: number("beta1"),
        beta2: number("beta2"),
        epsilon: number("epsilon"),
        decay: number("decay"),
        clip: number("clip"),
    };
    for step in 0..10 {
        let totals = case.differentiate(&model, &gradients, step);
        check_losses(case, &model, &gradients, totals, step, tolerance);
        if step == 0 {
            check_gradients(case, &gradients.bundle, tolerance);
        }
        let norm = optimizer.gradient_norm(&gradients).unwrap();
        let wanted = case.expected["steps"][step]["gradient_norm"].as_f64().unwrap();
        assert_close(&format!("{}, step {step}, gradient norm", case.name), norm, wanted, tolerance);
        let rate = numbers["rates"][step].as_f64().unwrap();
        optimizer.update(&model, &gradients, &spec, rate, step as u64 + 1).unwrap();
        model.balance(&gradients.tally).unwrap();
    }
    let bytes = fs::read(case.folder.join("final.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (spec, tensor) in model.parameters.specs.iter().zip(&model.parameters.tensors) {
        let error = distance(&tensor.to_doubles().unwrap(), &doubles(&file, &spec.name));
        assert!(error < TOLERANCE, "{}: after ten steps {} is off by {error:.2e}", case.name, spec.name);
    }
}

const CASES: &[&str] = &[
    "v1",
    "v1-scope2",
    "v1-normhead",
    "v1-normhead-tied",
    "v1-warmup",
    "v2",
    "v2-mtp",
    "tied",
    "no-shared-expert",
    "one-expert-chosen",
    "qwen3_moe",
    "glm4_moe",
];

#[test]
fn the_cpu_agrees_with_pytorch_in_f32() {
    for name in CASES {
        ten_steps(&Case::open(name), &Device::new(Cpu::new(2)), Kind::F32, TOLERANCE);
    }
}

#[cfg(unix)]
#[test]
fn torch_agrees_with_pytorch_in_f32_and_no_tensor_of_its_is_left_behind() {
    let device = match Torch::open("torch:cpu", Options { threads: 1, ..Options::default() }) {
        Ok(backend) => Device::new(backend),
        Err(error) => return println!("skipped: {error}"),
    };
    for name in CASES {
        ten_steps(&Case::open(name), &device, Kind::F32, TOLERANCE);
    }
    // Tables and the like are kept; what one more model leaves behind is a leak.
    let kept = Torch::live_handles();
    ten_steps(&Case::open("v2-mtp"), &device, Kind::F32, TOLERANCE);
    assert_eq!(Torch::live_handles(), kept);
    assert_eq!(device.memory_in_use().now_bytes, 0);
    let case = Case::open("v1");
    let (model, mut after) = (case.model(&device, Kind::F32), vec![]);
    let gradients = model.gradients().unwrap();
    for step in 0..3 {
        case.differentiate(&model, &gradients, step);
        after.push(Torch::live_handles());
    }
    assert!(after[0] > kept && after.windows(2).all(|pair| pair[0] == pair[1]), "{kept}, then {after:?}");
}

#[cfg(unix)]
#[path = "../../../device/tests/chip/apart.rs"]
mod apart;

#[cfg(unix)]
#[test]
fn the_test_chip_agrees_with_pytorch_in_f32() {
    apart::run("it::golden::the_test_chip_agrees_with_pytorch_in_f32", &[], || {
        let device = Device::new(Torch::open("torch:testchip:0", Options::default()).unwrap());
        for name in CASES {
            ten_steps(&Case::open(name), &device, Kind::F32, TOLERANCE);
        }
    });
}

#[test]
fn the_definition_agrees_with_pytorch_in_f64() {
    for name in CASES {
        ten_steps(&Case::open(name), &Device::new(Reference::new()), Kind::F64, 2e-6);
    }
}
