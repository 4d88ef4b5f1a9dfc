//! Every gradient op against central differences of its forward op, in f64, on the definitions.

use lingot_device::conformance::Random;
use lingot_device::ops::{self, Rotation};
use lingot_device::reference::Reference;
use lingot_device::{Device, Flip, Kind, Result, RouteRule, Tensor};
use lingot_spec::Score;

/// Why an op is right to have no check of its own.
enum Proof {
    /// This test compares its gradient with finite differences.
    Checked(fn()),
    /// It is what a checked op's gradient is made of.
    Gradient,
    Without(&'static str),
}

const PROOFS: [(&str, Proof); 29] = [
    ("MatMul", Proof::Checked(matmul_has_the_gradient_of_finite_differences)),
    ("GroupedMatMul", Proof::Checked(grouped_matmul_has_the_gradient_of_finite_differences)),
    ("GroupedMatMulWeights", Proof::Gradient),
    ("Embedding", Proof::Checked(embedding_has_the_gradient_of_finite_differences)),
    ("EmbeddingGrad", Proof::Gradient),
    ("RmsNorm", Proof::Checked(rms_norm_has_the_gradient_of_finite_differences)),
    ("RmsNormGrad", Proof::Gradient),
    ("Rope", Proof::Checked(rope_has_the_gradient_of_finite_differences)),
    ("Attention", Proof::Checked(attention_has_the_gradient_of_finite_differences)),
    ("AttentionGrad", Proof::Gradient),
    ("Swiglu", Proof::Checked(swiglu_has_the_gradient_of_finite_differences)),
    ("SwigluGrad", Proof::Gradient),
    ("Route", Proof::Checked(route_has_the_gradient_of_finite_differences)),
    ("RouteGrad", Proof::Gradient),
    ("WarmLogits", Proof::Checked(warm_logits_have_the_gradient_of_finite_differences)),
    ("SortByExpert", Proof::Without("it gives whole numbers")),
    ("Dispatch", Proof::Checked(dispatch_and_combine_are_each_others_gradients)),
    ("Combine", Proof::Checked(dispatch_and_combine_are_each_others_gradients)),
    ("ColumnScales", Proof::Without("the norm of NormHead is detached")),
    ("ScaleColumns", Proof::Checked(scale_columns_is_its_own_gradient)),
    ("CrossEntropy", Proof::Checked(cross_entropy_has_the_gradient_of_finite_differences)),
    ("CrossEntropyGrad", Proof::Gradient),
    ("AdamW", Proof::Without("nothing is differentiated through a step")),
    ("SumOfSquares", Proof::Without("a statistic")),
    ("Moments", Proof::Without("a statistic")),
    ("BalanceBias", Proof::Without("nothing is differentiated through a step")),
    ("Add", Proof::Without("its gradient by either operand is the gradient itself")),
    ("Copy", Proof::Without("its gradient is the gradient itself")),
    ("Fill", Proof::Without("it has no input")),
];

#[test]
fn every_op_has_a_gradient_check_or_a_reason() {
    let proven: Vec<&str> = PROOFS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        declared_ops(),
        proven,
        "add the op's gradient check, or the reason why it needs none, to PROOFS"
    );
    for (name, proof) in PROOFS {
        match proof {
            Proof::Checked(check) => check(),
            Proof::Gradient => {}
            Proof::Without(reason) => assert!(!reason.is_empty(), "{name}"),
        }
    }
}

#[test]
fn matmul_has_the_gradient_of_finite_differences() {
    for [m, k, n] in [[1, 1, 1], [3, 5, 2], [7, 1, 4]] {
        let flips = [(false, false), (false, true), (true, false), (true, true)].map(|(a, b)| Flip { a, b });
        for flip in flips {
            let a_shape = if flip.a { [k, m] } else { [m, k] };
            let b_shape = if flip.b { [n, k] } else { [k, n] };
            Check {
                name: &format!("matmul {m} {k} {n} {flip:?}"),
                inputs: &[&a_shape, &b_shape],
                forward: &|x| Ok(vec![ops::matmul(&x[0], &x[1], flip)?]),
                backward: &|x, d| matmul_grad(&x[0], &x[1], &d[0], flip),
            }
            .run();
        }
    }
}

fn matmul_grad(a: &Tensor, b: &Tensor, d_out: &Tensor, flip: Flip) -> Result<Vec<Tensor>> {
    let d_a = match (flip.a, flip.b) {
        (false, b_flipped) => ops::matmul(d_out, b, Flip { a: false, b: !b_flipped })?,
        (true, b_flipped) => ops::matmul(b, d_out, Flip { a: b_flipped, b: true })?,
    };
    let d_b = match (flip.a, flip.b) {
        (a_flipped, false) => ops::matmul(a, d_out, Flip { a: !a_flipped, b: false })?,
        (a_flipped, true) => ops::matmul(d_out, a, Flip { a: true, b: a_flipped })?,
    };
    Ok(vec![d_a, d_b])
}

#[test]
fn grouped_matmul_has_the_gradient_of_finite_differences() {
    let (e, n, k) = (4, 3, 2);
    // The second case has experts without rows at the beginning, in the middle and at the end.
    for ends in [[1, 3, 4, 6], [0, 3, 3, 3], [1, 1, 1, 1]] {
        let rows = ends[3] as usize;
        for flip in [false, true] {
            Check {
                name: &format!("grouped_matmul {ends:?} {flip}"),
                inputs: &[&[rows, if flip { n } else { k }], &[e, n, k]],
                forward: &|x| Ok(vec![ops::grouped_matmul(&x[0], &x[1], &integers(&x[0], &ends)?, flip)?]),
                backward: &|x, d| {
                    let ends = integers(&x[0], &ends)?;
                    let d_w = zeros_like(&x[1])?;
                    let [dy, x_rows] = if flip { [&x[0], &d[0]] } else { [&d[0], &x[0]] };
                    ops::grouped_matmul_weights(dy, x_rows, &ends, &d_w)?;
                    Ok(vec![ops::grouped_matmul(&d[0], &x[1], &ends, !flip)?, d_w])
                },
            }
            .run();
        }
    }
}

#[test]
fn embedding_has_the_gradient_of_finite_differences() {
    for tokens in [vec![4], vec![0, 2, 2, 4, 2]] {
        Check {
            name: &format!("embedding {tokens:?}"),
            inputs: &[&[5, 3]],
            forward: &|x| Ok(vec![ops::embedding(&x[0], &integers(&x[0], &tokens)?)?]),
            backward: &|x, d| {
                let d_table = zeros_like(&x[0])?;
                ops::embedding_grad(&d[0], &integers(&x[0], &tokens)?, &d_table)?;
                Ok(vec![d_table])
            },
        }
        .run();
    }
}

#[test]
fn rms_norm_has_the_gradient_of_finite_differences() {
    let shapes: [&[usize]; 4] = [&[1, 1], &[1, 7], &[5, 3], &[2, 3, 4]];
    for shape in shapes {
        for epsilon in [1e-6, 0.5] {
            Check {
                name: &format!("rms_norm {shape:?} {epsilon}"),
                inputs: &[shape, &shape[shape.len() - 1..]],
                forward: &|x| Ok(vec![ops::rms_norm(&x[0], &x[1], epsilon)?]),
                backward: &|x, d| {
                    let d_scale = zeros_like(&x[1])?;
                    Ok(vec![ops::rms_norm_grad(&d[0], &x[0], &x[1], epsilon, None, &d_scale)?, d_scale])
                },
            }
            .run();
        }
    }
}

#[test]
fn rope_has_the_gradient_of_finite_differences() {
    for (shape, width) in [([1, 1, 2], 2), ([4, 2, 6], 6), ([4, 3, 8], 4), ([2, 1, 4], 0)] {
        let positions: Vec<i32> = [0, 1, 0, 4000][..shape[0]].to_vec();
        let rotation = Rotation { width, theta: 100.0 };
        let rotate = |x: &Tensor, back: bool| -> Result<Vec<Tensor>> {
            let rotated = zeros_like(x)?;
            ops::copy(&rotated, x)?;
            ops::rope(&rotated, &integers(x, &positions)?, rotation, back)?;
            Ok(vec![rotated])
        };
        Check {
            name: &format!("rope {shape:?} {width}"),
            inputs: &[&shape],
            forward: &|x| rotate(&x[0], false),
            backward: &|_, d| rotate(&d[0], true),
        }
        .run();
    }
}

#[test]
fn attention_has_the_gradient_of_finite_differences() {
    // Tokens, heads, kv heads, head width; then the first token of each token's document.
    let cases: [([usize; 4], &[i32]); 4] = [
        ([1, 1, 1, 1], &[0]),
        ([5, 2, 2, 3], &[0, 0, 0, 0, 0]),
        ([6, 4, 2, 2], &[0, 0, 2, 3, 3, 3]),
        ([3, 3, 1, 4], &[0, 1, 2]),
    ];
    for ([t, h, g, c], starts) in cases {
        let scale = 0.7;
        Check {
            name: &format!("attention {t} {h} {g} {c} {starts:?}"),
            inputs: &[&[t, h, c], &[t, g, c], &[t, g, c]],
            forward: &|x| {
                let starts = integers(&x[0], starts)?;
                Ok(vec![ops::attention(&x[0], &x[1], &x[2], &starts, scale)?.out_thc])
            },
            backward: &|x, d| {
                let starts = integers(&x[0], starts)?;
                let attended = ops::attention(&x[0], &x[1], &x[2], &starts, scale)?;
                let qkv = [&x[0], &x[1], &x[2]];
                Ok(ops::attention_grad(&d[0], qkv, &starts, scale, &attended)?.to_vec())
            },
        }
        .run();
    }
}

#[test]
fn swiglu_has_the_gradient_of_finite_differences() {
    for [rows, f] in [[1, 1], [3, 5]] {
        Check {
            name: &format!("swiglu {rows} {f}"),
            inputs: &[&[rows, 2 * f]],
            forward: &|x| Ok(vec![ops::swiglu(&x[0], None)?]),
            backward: &|x, d| Ok(vec![ops::swiglu_grad(&d[0], &x[0])?]),
        }
        .run();
        Check {
            name: &format!("swiglu {rows} {f}, weighted"),
            inputs: &[&[rows, 2 * f], &[rows]],
            forward: &|x| Ok(vec![ops::swiglu(&x[0], Some(&x[1]))?]),
            backward: &|x, d| {
                let gradient = ops::weighted_swiglu_grad(&d[0], &x[0], &x[1])?;
                Ok(vec![gradient.d_gate_up, gradient.d_weights_r])
            },
        }
        .run();
    }
}

#[test]
fn route_has_the_gradient_of_finite_differences() {
    for (rule, t, e) in rules() {
        for biased in [false, true] {
            let bias: Vec<f64> = (0..e).map(|i| if biased { 0.3 * (i as f64).sin() } else { 0.0 }).collect();
            Check {
                name: &format!("route {rule:?} {t} {e} {biased}"),
                inputs: &[&[t, e]],
                forward: &|x| {
                    let (routing, losses) = routed(&x[0], &bias, rule)?;
                    Ok(vec![routing.weights_tk, losses])
                },
                backward: &|x, d| {
                    let (routing, _) = routed(&x[0], &bias, rule)?;
                    let scales = d[1].to_doubles()?;
                    Ok(vec![ops::route_grad(&d[0], &x[0], &routing, rule, [scales[0], scales[1]], 1.0)?])
                },
            }
            .run();
        }
    }
}

#[test]
fn warm_logits_have_the_gradient_of_finite_differences() {
    let (keep, mean, deviation) = (0.3, 0.1, 1.5);
    for (rule, t, e) in rules() {
        let warmed = |x: &Tensor| -> Result<Tensor> {
            let (logits, noise) = (zeros_like(x)?, zeros_like(x)?);
            ops::copy(&logits, x)?;
            noise.write_doubles(&random_values(t * e, 77))?;
            ops::warm_logits(&logits, &noise, keep, mean, deviation)?;
            Ok(logits)
        };
        Check {
            name: &format!("warm_logits {rule:?}"),
            inputs: &[&[t, e]],
            forward: &|x| {
                let (routing, losses) = routed(&warmed(&x[0])?, &vec![0.0; e], rule)?;
                Ok(vec![routing.weights_tk, losses])
            },
            backward: &|x, d| {
                let logits = warmed(&x[0])?;
                let (routing, _) = routed(&logits, &vec![0.0; e], rule)?;
                let scales = d[1].to_doubles()?;
                Ok(vec![ops::route_grad(&d[0], &logits, &routing, rule, [scales[0], scales[1]], keep)?])
            },
        }
        .run();
    }
}

#[test]
fn dispatch_and_combine_are_each_others_gradients() {
    let (t, k, d, e) = (4, 2, 3, 5);
    let experts = [3, 0, 0, 4, 3, 4, 1, 3];
    let sorted = |like: &Tensor| -> Result<ops::Sorted> {
        ops::sort_by_expert(&like.device().integers(&experts, &[t, k])?, e)
    };
    Check {
        name: "dispatch",
        inputs: &[&[t, d]],
        forward: &|x| Ok(vec![ops::dispatch(&x[0], &sorted(&x[0])?.order_r, k)?]),
        backward: &|x, d| Ok(vec![ops::combine(&d[0], &sorted(&x[0])?.places_tk)?]),
    }
    .run();
    Check {
        name: "combine",
        inputs: &[&[t * k, d]],
        forward: &|x| Ok(vec![ops::combine(&x[0], &sorted(&x[0])?.places_tk)?]),
        backward: &|x, d| Ok(vec![ops::dispatch(&d[0], &sorted(&x[0])?.order_r, k)?]),
    }
    .run();
}

#[test]
fn scale_columns_is_its_own_gradient() {
    let scales = |like: &Tensor| like.device().floats(&[0.5, -2.0, 3.0], &[3], Kind::F64);
    Check {
        name: "scale_columns",
        inputs: &[&[4, 3]],
        forward: &|x| Ok(vec![ops::scale_columns(&x[0], &scales(&x[0])?)?]),
        backward: &|x, d| Ok(vec![ops::scale_columns(&d[0], &scales(&x[0])?)?]),
    }
    .run();
}

#[test]
fn cross_entropy_has_the_gradient_of_finite_differences() {
    for (targets, v, d) in [(vec![0], 1, 1), (vec![2], 3, 4), (vec![6, -1, 0, 3, 3], 7, 3)] {
        // One cotangent for all losses, as the op takes one scale.
        let total = |losses: &Tensor| -> Result<Tensor> {
            let ones = losses.device().floats(&vec![1.0; losses.len()], &[losses.len(), 1], Kind::F64)?;
            ops::matmul(&losses.reshape(&[1, losses.len()]), &ones, Flip::NONE)
        };
        Check {
            name: &format!("cross_entropy {targets:?}"),
            inputs: &[&[targets.len(), d], &[v, d]],
            forward: &|x| Ok(vec![total(&ops::cross_entropy(&x[0], &x[1], &integers(&x[0], &targets)?)?)?]),
            backward: &|x, d| {
                let (scale, d_w) = (d[0].to_doubles()?[0], zeros_like(&x[1])?);
                let targets = integers(&x[0], &targets)?;
                let (losses, d_x) = ops::cross_entropy_grad(&x[0], &x[1], &targets, scale, &d_w)?;
                assert_eq!(losses.to_doubles()?, ops::cross_entropy(&x[0], &x[1], &targets)?.to_doubles()?);
                Ok(vec![d_x, d_w])
            },
        }
        .run();
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
        ops::grouped_matmul_weights(&dy, &x, &ends, dw)
    });
    adds(&device, "embedding_grad", &[4, 2], &|d_table| ops::embedding_grad(&x, &tokens, d_table));
    adds(&device, "rms_norm_grad, d_x", &[3, 2], &|d_x| {
        ops::rms_norm_grad(&x, &x, &scale, 0.1, Some(d_x), &ignored).map(|_| ())
    });
    adds(&device, "rms_norm_grad, d_scale", &[2], &|d_scale| {
        ops::rms_norm_grad(&x, &x, &scale, 0.1, None, d_scale).map(|_| ())
    });
    adds(&device, "cross_entropy_grad", &[4, 2], &|d_w| {
        ops::cross_entropy_grad(&x, &w, &tokens, 0.5, d_w).map(|_| ())
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

/// The variants of `Op`, as its source lists them.
pub(crate) fn declared_ops() -> Vec<&'static str> {
    let source = include_str!("../../src/op.rs");
    let (_, variants) = source.split_once("pub enum Op<'a> {").unwrap();
    let (variants, _) = variants.split_once("\n}").unwrap();
    variants
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.split([' ', ',', '(']).next().unwrap())
        .collect()
}

/// Routers of both generations: tokens and experts after each.
fn rules() -> Vec<(RouteRule, usize, usize)> {
    let plain = RouteRule {
        score: Score::Softmax,
        choices: 2,
        groups: 1,
        groups_kept: 1,
        renormalise: true,
        scale: 1.0,
        scope_tokens: 6,
    };
    let mut rules = vec![];
    for score in [Score::Softmax, Score::Sigmoid] {
        for renormalise in [true, false] {
            let rule = RouteRule { score, renormalise, ..plain };
            rules.push((rule, 6, 5));
            rules.push((RouteRule { choices: 1, scope_tokens: 1, ..rule }, 1, 3));
            rules.push((
                RouteRule { choices: 3, scale: 2.5, groups: 4, groups_kept: 2, scope_tokens: 2, ..rule },
                6,
                8,
            ));
            rules.push((RouteRule { choices: 4, groups: 4, groups_kept: 4, scope_tokens: 3, ..rule }, 3, 4));
        }
    }
    rules
}

/// Routes in f64; gives the two losses too.
fn routed(logits: &Tensor, bias: &[f64], rule: RouteRule) -> Result<(ops::Routing, Tensor)> {
    let device = logits.device();
    let e = bias.len();
    let (loads, losses) = (device.zeros(&[e], Kind::I32)?, device.zeros(&[2], Kind::F64)?);
    let bias_e = device.empty(&[e], Kind::F64)?;
    bias_e.write_doubles(bias)?;
    Ok((ops::route(logits, Some(&bias_e), rule, &loads, &losses)?, losses))
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
    /// For every element of every input, the central difference of `cotangents . outputs` against the gradient.
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
