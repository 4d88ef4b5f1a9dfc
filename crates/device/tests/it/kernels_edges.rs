//! Kernels of our own at sizes that the small suite does not reach: no tokens, more keys than threads,
//! vocabularies that take two passes of sorting, several chunks; and logits that are not numbers.

use crate::kernels::open;
use lingot_device::conformance::wide::{HeadShape, RoutingShape, RowsShape, Shapes, Wide};
use lingot_device::reference::Reference;
use lingot_device::{Device, Kind, Precision, RouteRule, ops};
use lingot_spec::Score;

const RULE: RouteRule = RouteRule {
    score: Score::Softmax,
    choices: 4,
    groups: 1,
    groups_kept: 1,
    renormalise: true,
    scale: 1.0,
    scope_tokens: 5,
};

/// In the words of `lingot devices -v`.
const FAMILIES: [&str; 6] =
    ["routing", "sort by expert", "the head's loss", "embedding's gradient", "NormHead", "balance bias"];

#[test]
fn kernels_pass_where_keys_words_and_chunks_are_many() {
    let routing = |experts, groups, groups_kept| RoutingShape {
        tokens: 300,
        experts,
        rule: RouteRule { groups, groups_kept, ..RULE },
        is_biased: true,
        width: 3,
    };
    let shapes = Shapes {
        heads: vec![HeadShape { tokens: 600, vocabulary: 8192, width: 16, targets: 16 }],
        // Of 1,100 experts, and of 50 groups, ops are composed.
        routing: vec![routing(300, 10, 3), routing(1100, 1, 1), routing(100, 50, 5)],
        rows: vec![RowsShape::Embedding([300, 3000, 33]), RowsShape::Embedding([300, 3, 2500])],
        ..Shapes::default()
    };
    for (name, precision) in [("edges", Precision::F32), ("edges-bf16", Precision::Bf16)] {
        let Some(device) = open(name, &[], precision) else { return };
        let routes = device.routes();
        for family in FAMILIES {
            assert!(routes.contains(&format!("{family}: kernel of ours")), "{family}: {routes:#?}");
        }
        let verdicts = Wide::new(&shapes, precision).check(&device, &mut |_, _| ()).unwrap();
        let failures: Vec<_> = verdicts.iter().filter(|verdict| !verdict.passed).collect();
        assert!(verdicts.len() >= 50 && failures.is_empty(), "{} verdicts: {failures:#?}", verdicts.len());
    }
}

#[test]
fn logits_that_are_not_numbers_are_routed_as_the_definition_has_it() {
    let Some(device) = open("not-numbers", &[], Precision::F32) else { return };
    let (t, e) = (20, 12);
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let logits: Vec<f32> = (0..t * e)
        .map(|i| match i * 7 % 11 {
            place @ 0..=2 if i / e > 4 => odd[place],
            _ if i / e == 4 => f32::NAN,
            place => place as f32 * 0.25,
        })
        .collect();
    for rule in [RULE, RouteRule { score: Score::Sigmoid, groups: 4, groups_kept: 2, ..RULE }] {
        let routed = |device: &Device, kind| {
            let logits = device.floats(&logits, &[t, e], kind).unwrap();
            let (loads, losses) = (device.zeros(&[e], Kind::I32).unwrap(), device.zeros(&[2], kind).unwrap());
            let routing = ops::route(&logits, None, rule, &loads, &losses).unwrap();
            [routing.experts_tk, routing.counts_ge, loads].map(|numbers| numbers.to_integers().unwrap())
        };
        let wanted = routed(&Device::new(Reference::new()), Kind::F64);
        assert_eq!(routed(&device, Kind::F32), wanted, "{rule:?}");
    }
}

#[test]
fn kernels_take_no_tokens() {
    let Some(device) = open("empty", &[], Precision::F32) else { return };
    let floats = |shape: &[usize]| device.zeros(shape, Kind::F32).unwrap();
    let integers = |shape: &[usize]| device.zeros(shape, Kind::I32).unwrap();
    let (loads, losses, logits) = (integers(&[6]), floats(&[2]), floats(&[0, 6]));
    let routing = ops::route(&logits, None, RULE, &loads, &losses).unwrap();
    assert_eq!((loads.to_integers().unwrap(), losses.to_floats().unwrap()), (vec![0; 6], vec![0.0; 2]));
    ops::route_grad(&floats(&[0, 4]), &logits, &routing, RULE, [1.0, 1.0], 1.0, Kind::F32).unwrap();
    let sorted = ops::sort_by_expert(&routing.experts_tk, 6).unwrap();
    assert_eq!(sorted.ends_e.to_integers().unwrap(), [0; 6]);
    let (x, w, d_w) = (floats(&[0, 3]), floats(&[5, 3]), floats(&[5, 3]));
    ops::cross_entropy_grad(&x, &w, &integers(&[0]), 1.0, &d_w, true).unwrap();
    ops::embedding_grad(&x, &integers(&[0]), &d_w).unwrap();
    assert_eq!(d_w.to_floats().unwrap(), [0.0; 15]);
}
