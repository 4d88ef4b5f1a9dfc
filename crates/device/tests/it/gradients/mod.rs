//! Every gradient op against central differences of its forward op, in f64, on the definitions.

mod products;
mod routing;
mod rows;

use lingot_device::conformance::Random;
use lingot_device::ops;
use lingot_device::reference::Reference;
use lingot_device::{Device, Flip, Kind, Op, Result, Tensor};

/// How an op's gradient is proven, or why it needs no proof.
enum Proof {
    /// A test that compares the op's gradient with finite differences.
    Checked(fn()),
    /// The op is the gradient of a checked op.
    Gradient,
    /// The reason why the op needs no proof.
    Without(&'static str),
}

const PROOFS: [(&str, Proof); 29] = [
    ("matmul", Proof::Checked(products::matmul_has_the_gradient_of_finite_differences)),
    ("grouped_matmul", Proof::Checked(products::grouped_matmul_has_the_gradient_of_finite_differences)),
    ("grouped_matmul_weights", Proof::Gradient),
    ("embedding", Proof::Checked(products::embedding_has_the_gradient_of_finite_differences)),
    ("embedding_grad", Proof::Gradient),
    ("rms_norm", Proof::Checked(rows::rms_norm_has_the_gradient_of_finite_differences)),
    ("rms_norm_grad", Proof::Gradient),
    ("rope", Proof::Checked(rows::rope_has_the_gradient_of_finite_differences)),
    ("attention", Proof::Checked(rows::attention_has_the_gradient_of_finite_differences)),
    ("attention_grad", Proof::Gradient),
    ("swiglu", Proof::Checked(rows::swiglu_has_the_gradient_of_finite_differences)),
    ("swiglu_grad", Proof::Gradient),
    ("route", Proof::Checked(routing::route_has_the_gradient_of_finite_differences)),
    ("route_grad", Proof::Gradient),
    ("warm_logits", Proof::Checked(routing::warm_logits_have_the_gradient_of_finite_differences)),
    ("sort_by_expert", Proof::Without("it gives whole numbers")),
    ("dispatch", Proof::Checked(routing::dispatch_and_combine_are_each_others_gradients)),
    ("combine", Proof::Checked(routing::dispatch_and_combine_are_each_others_gradients)),
    ("column_scales", Proof::Without("the norm of NormHead is detached")),
    ("scale_columns", Proof::Checked(rows::scale_columns_is_its_own_gradient)),
    ("cross_entropy", Proof::Checked(products::cross_entropy_has_the_gradient_of_finite_differences)),
    ("cross_entropy_grad", Proof::Gradient),
    ("adamw", Proof::Without("nothing is differentiated through a step")),
    ("sum_of_squares", Proof::Without("a statistic")),
    ("moments", Proof::Without("a statistic")),
    ("balance_bias", Proof::Without("nothing is differentiated through a step")),
    ("add", Proof::Without("its gradient by either operand is the gradient itself")),
    ("copy", Proof::Without("its gradient is the gradient itself")),
    ("fill", Proof::Without("it has no input")),
];

#[test]
fn every_op_has_a_gradient_check_or_a_reason() {
    let proven: Vec<&str> = PROOFS.iter().map(|(name, _)| *name).collect();
    assert_eq!(Op::NAMES, proven, "add the op's gradient check, or the reason why it needs none, to PROOFS");
    for (name, proof) in PROOFS {
        match proof {
            Proof::Checked(check) => check(),
            Proof::Gradient => {}
            Proof::Without(reason) => assert!(!reason.is_empty(), "{name}"),
        }
    }
}

#[test]
fn gradients_that_add_keep_what_was_there() {
    let device = Device::new(Reference::new());
    let random = |shape: &[usize]| doubles(&device, shape, &random_values(shape.iter().product(), 5));
    let ends = device.integers(&[1, 3], &[2]).unwrap();
    let tokens = device.integers(&[2, 0, 2], &[3]).unwrap();
    let [x, dy, w, scale] = [random(&[3, 2]), random(&[3, 4]), random(&[4, 2]), random(&[2])];
    let ignored = device.zeros(&[2], Kind::F64).unwrap();
    adds(&device, "matmul_onto", &[3, 4], &|out| ops::matmul_onto(out, &x, &w, Flip::B));
    adds(&device, "grouped_matmul_weights", &[2, 4, 2], &|dw| {
        ops::grouped_matmul_weights(&dy, &x, &ends, dw, true)
    });
    adds(&device, "embedding_grad", &[4, 2], &|d_table| ops::embedding_grad(&x, &tokens, d_table));
    adds(&device, "rms_norm_grad, d_x", &[3, 2], &|d_x| {
        ops::rms_norm_grad(&x, &x, &scale, 0.1, Some(d_x), &ignored).map(|_| ())
    });
    adds(&device, "rms_norm_grad, d_scale", &[2], &|d_scale| {
        ops::rms_norm_grad(&x, &x, &scale, 0.1, None, d_scale).map(|_| ())
    });
    adds(&device, "cross_entropy_grad", &[4, 2], &|d_w| {
        ops::cross_entropy_grad(&x, &w, &tokens, 0.5, d_w, true).map(|_| ())
    });
    let places = device.integers(&[2, 0, 1], &[3, 1]).unwrap();
    adds(&device, "combine_onto", &[3, 2], &|out| ops::combine_onto(out, &x, &places));
}

/// Run twice, it gives twice what it gives once, and that is not nothing.
fn adds(device: &Device, name: &str, shape: &[usize], run: &dyn Fn(&Tensor) -> Result<()>) {
    let out = device.zeros(shape, Kind::F64).unwrap();
    run(&out).unwrap();
    let once = out.to_doubles().unwrap();
    run(&out).unwrap();
    let twice = out.to_doubles().unwrap();
    assert!(once.iter().any(|x| x.abs() > 0.01), "{name} gives {once:?}");
    for (once, twice) in once.iter().zip(twice) {
        assert!((twice - 2.0 * once).abs() < 1e-12, "{name}: once {once}, twice {twice}");
    }
}

type Forward<'a> = &'a dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>;
type Backward<'a> = &'a dyn Fn(&[Tensor], &[Tensor]) -> Result<Vec<Tensor>>;

/// An op and its gradient: `backward` takes the inputs and the cotangents of `forward`'s outputs.
struct Check<'a> {
    name: &'a str,
    inputs: &'a [&'a [usize]],
    forward: Forward<'a>,
    backward: Backward<'a>,
}

impl Check<'_> {
    /// For every element of every input, the central difference of `cotangents . outputs` against the
    /// gradient.
    fn run(&self) {
        let device = Device::new(Reference::new());
        let values: Vec<Vec<f64>> = (1u64..)
            .zip(self.inputs)
            .map(|(seed, shape)| random_values(shape.iter().product(), seed))
            .collect();
        let inputs = self.tensors(&device, &values);
        let outputs = (self.forward)(&inputs).unwrap();
        let cotangents: Vec<Vec<f64>> =
            (100u64..).zip(&outputs).map(|(seed, output)| random_values(output.len(), seed)).collect();
        let d_outputs: Vec<Tensor> = outputs
            .iter()
            .zip(&cotangents)
            .map(|(output, values)| doubles(&device, output.shape(), values))
            .collect();
        let gradients = (self.backward)(&inputs, &d_outputs).unwrap();
        assert_eq!(gradients.len(), self.inputs.len(), "{}", self.name);
        for (which, gradient) in gradients.iter().enumerate() {
            assert_eq!(gradient.shape(), self.inputs[which], "{}", self.name);
            let found = gradient.to_doubles().unwrap();
            let wanted: Vec<f64> = (0..found.len())
                .map(|at| self.difference(&device, &values, &cotangents, which, at))
                .collect();
            let size = wanted.iter().fold(0.1, |size: f64, x| size.max(x.abs()));
            for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                let error = (found - wanted).abs() / size;
                assert!(
                    error <= 1e-7,
                    "{}: input {which}[{at}]: {found} but differences give {wanted}",
                    self.name
                );
            }
        }
    }

    fn difference(
        &self,
        device: &Device,
        values: &[Vec<f64>],
        cotangents: &[Vec<f64>],
        which: usize,
        at: usize,
    ) -> f64 {
        let step = 1e-5;
        let moved = |by: f64| {
            let mut values = values.to_vec();
            values[which][at] += by;
            let outputs = (self.forward)(&self.tensors(device, &values)).unwrap();
            let dot = |(output, cotangent): (&Tensor, &Vec<f64>)| -> f64 {
                output.to_doubles().unwrap().iter().zip(cotangent).map(|(x, d)| x * d).sum()
            };
            outputs.iter().zip(cotangents).map(dot).sum::<f64>()
        };
        (moved(step) - moved(-step)) / (2.0 * step)
    }

    fn tensors(&self, device: &Device, values: &[Vec<f64>]) -> Vec<Tensor> {
        self.inputs.iter().zip(values).map(|(shape, values)| doubles(device, shape, values)).collect()
    }
}

fn doubles(device: &Device, shape: &[usize], values: &[f64]) -> Tensor {
    let tensor = device.empty(shape, Kind::F64).unwrap();
    tensor.write_doubles(values).unwrap();
    tensor
}

fn random_values(count: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.normal()).collect()
}

fn integers(like: &Tensor, values: &[i32]) -> Result<Tensor> {
    like.device().integers(values, &[values.len()])
}

fn zeros_like(tensor: &Tensor) -> Result<Tensor> {
    tensor.device().zeros(tensor.shape(), Kind::F64)
}
