//! What the front doors refuse: the error names the op, the tensor, what was found and what was wanted.

use lingot_device::op::AdamRule;
use lingot_device::ops::{self, Rotation};
use lingot_device::reference::Reference;
use lingot_device::{Device, Error, Flip, Kind, RouteRule, Tensor};
use lingot_spec::Score;
use std::ops::Range;

#[test]
fn matmul_names_the_operand_and_both_shapes() {
    let device = device();
    let (a, b) = (floats(&device, &[2, 3]), floats(&device, &[4, 5]));
    let error = refused(ops::matmul(&a, &b, Flip::NONE));
    assert_eq!(error.to_string(), "matmul: `b` is [4, 5], but must be [3, 5]");
    assert_eq!(
        refused(ops::matmul(&a, &b, Flip::B)).to_string(),
        "matmul: `b` is [4, 5], but must be [4, 3]"
    );
    let cube = floats(&device, &[2, 3, 4]);
    assert_eq!(
        refused(ops::matmul(&cube, &b, Flip::NONE)).to_string(),
        "matmul: a is of shape [2, 3, 4], but must be of 2 dimensions"
    );
}

#[test]
fn every_wrong_shape_is_refused_with_the_op_the_tensor_and_both_shapes() {
    let device = device();
    let f = |shape: &[usize]| floats(&device, shape);
    let i = |shape: &[usize]| device.zeros(shape, Kind::I32).unwrap();
    let adam = |gradient: &Tensor, first: &Tensor| {
        ops::adamw(&f(&[4]), gradient, [first, &f(&[4])], &f(&[1]), adam_rule(), &[], None)
    };
    for (op, tensor, error) in [
        ("matmul", "out", refused(ops::matmul_onto(&f(&[2, 2]), &f(&[2, 3]), &f(&[3, 4]), Flip::NONE))),
        ("grouped_matmul", "x", refused(ops::grouped_matmul(&f(&[4, 6]), &f(&[3, 5, 7]), &i(&[3]), false))),
        (
            "grouped_matmul",
            "ends",
            refused(ops::grouped_matmul(&f(&[4, 7]), &f(&[3, 5, 7]), &i(&[4]), false)),
        ),
        (
            "grouped_matmul_weights",
            "x",
            refused(ops::grouped_matmul_weights(&f(&[4, 5]), &f(&[3, 7]), &i(&[3]), &f(&[3, 5, 7]), true)),
        ),
        ("embedding_grad", "d_table", refused(ops::embedding_grad(&f(&[4, 5]), &i(&[4]), &f(&[9, 6])))),
        ("rms_norm", "scale", refused(ops::rms_norm(&f(&[4, 5]), &f(&[4]), 1e-6))),
        (
            "rms_norm_grad",
            "x",
            refused(ops::rms_norm_grad(&f(&[4, 5]), &f(&[5, 5]), &f(&[5]), 1e-6, None, &f(&[5]))),
        ),
        (
            "rope",
            "positions",
            refused(ops::rope(&f(&[4, 2, 6]), &i(&[3]), Rotation { width: 6, theta: 1e4 }, false)),
        ),
        ("swiglu", "weights", refused(ops::swiglu(&f(&[4, 6]), Some(&f(&[3]))))),
        ("swiglu_grad", "d_out", refused(ops::swiglu_grad(f(&[4, 6]), f(&[4, 6])))),
        ("scale_columns", "scales", refused(ops::scale_columns(&f(&[4, 3]), &f(&[4])))),
        ("cross_entropy", "w", refused(ops::cross_entropy(&f(&[4, 3]), &f(&[9, 4]), &i(&[4])))),
        ("cross_entropy", "targets", refused(ops::cross_entropy(&f(&[4, 3]), &f(&[9, 3]), &i(&[5])))),
        (
            "cross_entropy_grad",
            "d_w",
            refused(ops::cross_entropy_grad(&f(&[4, 3]), &f(&[9, 3]), &i(&[4]), 1.0, &f(&[8, 3]), true)),
        ),
        ("adamw", "gradient", refused(adam(&f(&[5]), &f(&[4])))),
        ("adamw", "first", refused(adam(&f(&[4]), &f(&[5])))),
        ("sum_of_squares", "out", refused(ops::sum_of_squares(&f(&[4]), &f(&[2])))),
        ("moments", "out", refused(ops::moments(&f(&[4]), &f(&[1])))),
        ("balance_bias", "loads", refused(ops::balance_bias(&f(&[4]), &i(&[3]), 1e-3))),
        ("add", "x", refused(ops::add(&f(&[4]), &f(&[5])))),
        ("copy", "x", refused(ops::copy(&f(&[4]), &f(&[5])))),
    ] {
        assert_names_both_shapes(op, tensor, &error);
    }
}

#[test]
fn attention_refuses_wrong_shapes() {
    let device = device();
    let f = |shape: &[usize]| floats(&device, shape);
    let i = |shape: &[usize]| device.zeros(shape, Kind::I32).unwrap();
    let q_and_kv = (f(&[4, 2, 3]), f(&[4, 1, 3]));
    let attended = ops::attention(&q_and_kv.0, &q_and_kv.1, &q_and_kv.1, &i(&[4]), 1.0).unwrap();
    for (op, tensor, error) in [
        ("attention", "v", refused(ops::attention(&q_and_kv.0, &q_and_kv.1, &f(&[4, 1, 2]), &i(&[4]), 1.0))),
        (
            "attention",
            "starts",
            refused(ops::attention(&q_and_kv.0, &q_and_kv.1, &q_and_kv.1, &i(&[3]), 1.0)),
        ),
        (
            "attention_grad",
            "d_out",
            refused(ops::attention_grad(
                &f(&[4, 2, 2]),
                [&q_and_kv.0, &q_and_kv.1, &q_and_kv.1],
                &i(&[4]),
                1.0,
                &attended,
            )),
        ),
    ] {
        assert_names_both_shapes(op, tensor, &error);
    }
}

#[test]
fn the_way_of_a_token_refuses_wrong_shapes() {
    let device = device();
    let f = |shape: &[usize]| floats(&device, shape);
    let i = |shape: &[usize]| device.zeros(shape, Kind::I32).unwrap();
    let sorted = ops::sort_by_expert(&i(&[4, 2]), 3).unwrap();
    let routed = |loads: &Tensor, losses: &Tensor| ops::route(&f(&[4, 3]), None, rule(), loads, losses);
    for (op, tensor, error) in [
        ("route", "loads", refused(routed(&i(&[4]), &f(&[2])))),
        ("route", "losses", refused(routed(&i(&[3]), &f(&[3])))),
        ("warm_logits", "noise", refused(ops::warm_logits(&f(&[4, 3]), &f(&[3, 4]), 0.5, 0.0, 1.0))),
        ("dispatch", "order", refused(ops::dispatch(&f(&[5, 3]), &sorted.order_r, 2))),
        ("combine", "x", refused(ops::combine(&f(&[7, 3]), &sorted.places_tk))),
        ("combine", "out", refused(ops::combine_onto(&f(&[3, 3]), &f(&[8, 3]), &sorted.places_tk))),
    ] {
        assert_names_both_shapes(op, tensor, &error);
    }
}

#[test]
fn the_wrong_kind_of_numbers_is_refused() {
    let device = device();
    let f32s = floats(&device, &[2, 2]);
    let f64s = device.zeros(&[2, 2], Kind::F64).unwrap();
    let whole = device.zeros(&[2, 2], Kind::I32).unwrap();
    let text = refused(ops::matmul(&f32s, &f64s, Flip::NONE)).to_string();
    assert_eq!(text, "matmul: `b` holds f64, but must hold f32");
    let text = refused(ops::add(&whole, &f32s)).to_string();
    assert_eq!(text, "add: `the first operand` holds i32, but must hold bf16, f32 or f64");
    let text = refused(ops::copy(&f32s, &whole)).to_string();
    assert_eq!(text, "copy: `x` holds i32, but must hold f32");
    let text = refused(ops::embedding(&f32s, &floats(&device, &[2]))).to_string();
    assert_eq!(text, "embedding: `tokens` holds f32, but must hold i32");
    let text = refused(ops::sort_by_expert(&f32s, 2)).to_string();
    assert_eq!(text, "sort_by_expert: `experts` holds f32, but must hold i32");
}

/// Values are of one kind; sums beside bf16 are f32, and bf16 itself is none.
#[test]
fn what_must_not_be_rounded_is_refused_in_bf16() {
    let device = device();
    let of = |kind: Kind, shape: &[usize]| device.zeros(shape, kind).unwrap();
    let half = |shape: &[usize]| of(Kind::Bf16, shape);
    let wide = |shape: &[usize]| of(Kind::F32, shape);
    let i = |shape: &[usize]| of(Kind::I32, shape);
    let adam = |parameter: &Tensor, working: &Tensor| {
        let first = wide(&[4]);
        ops::adamw(
            parameter,
            &wide(&[4]),
            [&first, &wide(&[4])],
            &wide(&[1]),
            adam_rule(),
            &[],
            Some(working),
        )
    };
    let logits = half(&[4, 6]);
    for (error, wanted) in [
        (
            refused(ops::matmul(&half(&[2, 3]), &wide(&[3, 4]), Flip::NONE)),
            "matmul: `b` holds f32, but must hold bf16",
        ),
        (
            refused(ops::matmul_onto(&of(Kind::F64, &[2, 2]), &half(&[2, 3]), &half(&[3, 2]), Flip::NONE)),
            "matmul: `out` holds f64, but must hold bf16 or f32",
        ),
        (
            refused(ops::matmul_onto(&half(&[2, 2]), &wide(&[2, 3]), &wide(&[3, 2]), Flip::NONE)),
            "matmul: `out` holds bf16, but must hold f32",
        ),
        (
            refused(ops::embedding_grad(&half(&[4, 5]), &i(&[4]), &half(&[9, 5]))),
            "embedding_grad: `d_table` holds bf16, but must hold f32",
        ),
        (
            refused(ops::swiglu(&half(&[4, 6]), Some(&half(&[4])))),
            "swiglu: `weights` holds bf16, but must hold f32",
        ),
        (
            refused(ops::route(&logits, None, rule(), &i(&[6]), &wide(&[2]))),
            "route: `logits` holds bf16, but must hold f32 or f64",
        ),
        (refused(adam(&half(&[4]), &half(&[4]))), "adamw: `parameter` holds bf16, but must hold f32 or f64"),
        (refused(adam(&wide(&[4]), &i(&[4]))), "adamw: `working` holds i32, but must hold bf16 or f32"),
        (refused(ops::add(&half(&[4]), &wide(&[4]))), "add: `out` holds bf16, but must hold f32"),
    ] {
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn tensors_of_two_devices_do_not_meet() {
    let (here, there) = (device(), device());
    let text = refused(ops::add(&floats(&here, &[2]), &floats(&there, &[2]))).to_string();
    assert_eq!(text, "add: `x` is on reference, the others are on reference");
    let error = refused(ops::copy(&floats(&here, &[2]), &floats(&there, &[2])));
    assert!(matches!(error, Error::Elsewhere { op: "copy", tensor: "x", .. }), "{error}");
}

#[test]
fn an_output_that_overlaps_an_operand_is_refused() {
    let device = device();
    let all = floats(&device, &[4, 2]);
    let text = refused(ops::add(&all, &all)).to_string();
    assert_eq!(text, "add: `out` is written and shares memory with another tensor of the op");
    let error = refused(ops::copy(&all.rows(0, 3), &all.rows(1, 3)));
    assert!(matches!(error, Error::Overlap { op: "copy", tensor: "out" }), "{error}");
    let error =
        refused(ops::matmul_onto(&all.rows(0, 2), &all.rows(1, 2), &floats(&device, &[2, 2]), Flip::NONE));
    assert!(matches!(error, Error::Overlap { op: "matmul", tensor: "out" }), "{error}");
    let squares = floats(&device, &[1]);
    let [p, g, m] = [0, 1, 2].map(|row| all.rows(row, 1).reshape(&[2]));
    let error = refused(ops::adamw(&p, &g, [&m, &m], &squares, adam_rule(), &[], None));
    assert!(matches!(error, Error::Overlap { op: "adamw", tensor: "first" }), "{error}");
}

#[test]
fn neighbouring_rows_of_one_tensor_do_not_overlap() {
    let device = device();
    let all = device.floats(&[1.0, 2.0, 3.0, 4.0], &[2, 2], Kind::F32).unwrap();
    ops::add(&all.rows(0, 1), &all.rows(1, 1)).unwrap();
    assert_eq!(all.to_floats().unwrap(), [4.0, 6.0, 3.0, 4.0]);
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "one span of elements")]
fn numbers_outside_of_an_ops_definition_are_refused() {
    let device = device();
    let f = |shape: &[usize]| floats(&device, shape);
    let i = |shape: &[usize]| device.zeros(shape, Kind::I32).unwrap();
    let route = |rule| ops::route(&f(&[4, 6]), None, rule, &i(&[6]), &f(&[2]));
    let more_keys = |q: &[usize], kv: &[usize]| ops::attention(&f(q), &f(kv), &f(kv), &i(&q[..1]), 1.0);
    let rotate = |width| ops::rope(&f(&[2, 1, 4]), &i(&[2]), Rotation { width, theta: 1e4 }, false);
    let step_0 = AdamRule { step: 0, ..adam_rule() };
    let decaying = |spans: &[Range<usize>]| {
        ops::adamw(&f(&[4]), &f(&[4]), [&f(&[4]), &f(&[4])], &f(&[1]), adam_rule(), spans, None)
    };
    let texts = [
        (
            refused(route(RouteRule { groups: 4, ..rule() })),
            "route: the number of groups is 4, but must be a divisor of 6",
        ),
        (
            refused(route(RouteRule { groups_kept: 2, ..rule() })),
            "route: groups_kept is 2, but must be 1 to 1",
        ),
        (
            refused(route(RouteRule { choices: 7, ..rule() })),
            "route: the number of choices is 7, but must be 1 to 6",
        ),
        (
            refused(route(RouteRule { scope_tokens: 3, ..rule() })),
            "route: scope_tokens is 3, but must be a divisor of the 4 tokens",
        ),
        (
            refused(more_keys(&[4, 2, 3], &[3, 1, 3])),
            "attention: the number of keys is 3, but must be at least the number of queries, 4",
        ),
        (
            refused(more_keys(&[4, 3, 3], &[4, 2, 3])),
            "attention: the number of heads is 3, but must be a multiple of the 2 kv heads",
        ),
        (refused(rotate(3)), "rope: the rotary width is 3, but must be even and at most 4"),
        (refused(rotate(6)), "rope: the rotary width is 6, but must be even and at most 4"),
        (refused(ops::swiglu(&f(&[2, 3]), None)), "swiglu: the width of gate_up is 3, but must be even"),
        (
            refused(ops::dispatch(&f(&[2, 3]), &i(&[0]), 0)),
            "dispatch: the number of choices is 0, but must be positive",
        ),
        (
            refused(ops::warm_logits(&f(&[2, 3]), &f(&[2, 3]), 1.5, 0.0, 1.0)),
            "warm_logits: keep is 1.5, but must be between 0 and 1",
        ),
        (
            refused(ops::adamw(&f(&[2]), &f(&[2]), [&f(&[2]), &f(&[2])], &f(&[1]), step_0, &[], None)),
            "adamw: the step is 0, but must be at least 1",
        ),
        (refused(decaying(&[0..2, 1..3])), "adamw: a span that decays is 1..3, but must be within 2..4"),
        (refused(decaying(&[1..5])), "adamw: a span that decays is 1..5, but must be within 0..4"),
    ];
    for (error, wanted) in texts {
        assert_eq!(error.to_string(), wanted);
    }
}

fn assert_names_both_shapes(op: &str, tensor: &str, error: &Error) {
    let Error::Shape { op: found_op, tensor: found_tensor, found, wanted } = error else {
        panic!("{op}: {error}");
    };
    assert_eq!((*found_op, *found_tensor), (op, tensor), "{error}");
    let text = error.to_string();
    for part in [op.to_string(), format!("`{tensor}`"), format!("{found:?}"), format!("{wanted:?}")] {
        assert!(text.contains(&part), "{text} lacks {part}");
    }
}

fn device() -> Device {
    Device::new(Reference::new())
}

fn floats(device: &Device, shape: &[usize]) -> Tensor {
    device.zeros(shape, Kind::F32).unwrap()
}

fn rule() -> RouteRule {
    RouteRule {
        score: Score::Softmax,
        choices: 2,
        groups: 1,
        groups_kept: 1,
        renormalise: true,
        scale: 1.0,
        scope_tokens: 4,
    }
}

fn adam_rule() -> AdamRule {
    AdamRule { rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, step: 1, clip: 1.0 }
}

fn refused<T>(result: lingot_device::Result<T>) -> Error {
    match result {
        Ok(_) => panic!("not refused"),
        Err(error) => error,
    }
}
