//! The numbers that each op of a step moves, counted by hand for two small models.

use super::{Case, counted};
use lingot_device::Kind;
use lingot_spec::run::Recompute;
use lingot_spec::{ModelSpec, presets};

// The sizes of the models that are counted by hand, chosen so that operands of different meaning differ in
// size.
const T: usize = 6;
const D: usize = 13;
/// Query heads, and the widths of all query and of all key heads: 4 and 2 heads of 8.
const H: usize = 4;
const HC: usize = 32;
const GC: usize = 16;
const C: usize = 8;
const V: usize = 29;
/// Experts, rows of the tokens' 3 choices, inner width.
const E: usize = 5;
const R: usize = 18;
const F: usize = 7;
/// Inner width of a dense layer.
const W: usize = 11;

/// Numbers that each call of an op reads and writes, calls in order, by the name of the op. Counted are
/// floats, each operand once, and twice where it is accumulated into; of an embedding table only the rows
/// that tokens name. Not counted is what is small beside it: ids of other ops than the sort, scales and
/// weights per row or column, the choices of `route`.
type ByHand = Vec<(&'static str, Vec<usize>)>;

/// Ling v1 in one layer: softmax routing within the warmup, a shared expert, NormHead.
#[expect(clippy::too_many_lines, reason = "a table")]
fn ling_v1() -> (ModelSpec, ByHand) {
    let mut spec = ModelSpec {
        vocabulary: V as u32,
        width: D as u32,
        layers: 1,
        heads: H as u32,
        kv_heads: 2,
        head_width: C as u32,
        dense_layers: 0,
        experts: E as u32,
        choices: 3,
        expert_width: F as u32,
        shared_experts: 1,
        rotary_width: 4,
        ..presets::preset("toy-v1").unwrap()
    };
    spec.router.warmup_steps = 10;
    let norms = 3 * D; // attention, mlp, final
    let attention = 2 * HC * D + 2 * GC * D; // query and output, key and value
    let moe = E * D + 3 * E * F * D + 3 * F * D; // router, experts, shared expert
    let parameters = 2 * V * D + norms + attention + moe;
    let numbers = vec![
        ("embedding", vec![T * D + T * D]),          // rows, out
        ("embedding_grad", vec![T * D + 2 * T * D]), // d_out, rows of the table
        // Norms of attention, mlp, head; again for the gradients of the experts and of the projections.
        ("rms_norm", vec![T * D + T * D; 5]), // x, out
        // Of the head; of mlp and attention, added to the residual stream.
        (
            "rms_norm_grad",
            // d_out, x, d_x
            vec![T * D + T * D + T * D, T * D + T * D + 2 * T * D, T * D + T * D + 2 * T * D],
        ),
        ("rope", vec![2 * T * HC, 2 * T * GC, 2 * T * HC, 2 * T * GC]), // in place; back in the backward pass
        ("attention", vec![T * HC + T * GC + T * GC + T * HC + T * H]), // q, k, v, out, lse
        (
            "attention_grad",
            // d_out, q, k, v, out, lse; d_q, d_k, d_v
            vec![T * HC + T * HC + T * GC + T * GC + T * HC + T * H + T * HC + T * GC + T * GC],
        ),
        (
            "matmul", // a, b, out; the output twice where it is added to, which the first gradients are not
            vec![
                T * D + HC * D + T * HC,       // query
                T * D + GC * D + T * GC,       // key
                T * D + GC * D + T * GC,       // value
                T * HC + D * HC + T * D,       // output
                T * D + E * D + T * E,         // router
                T * D + 2 * F * D + T * 2 * F, // shared gate and up
                T * F + D * F + T * D,         // shared down
                T * D + D * F + T * F,         // by the input of shared down
                T * D + T * F + D * F,         // its gradient
                T * 2 * F + T * D + 2 * F * D, // of shared gate and up
                T * 2 * F + 2 * F * D + T * D, // by its input
                T * E + T * D + E * D,         // of the router
                T * E + E * D + 2 * T * D,     // by its input
                T * D + T * HC + D * HC,       // of the output projection
                T * D + D * HC + T * HC,       // by its input
                T * HC + T * D + HC * D,       // of query
                T * GC + T * D + GC * D,       // of key
                T * GC + T * D + GC * D,       // of value
                T * HC + HC * D + T * D,       // by the input of query
                T * GC + GC * D + 2 * T * D,   // of key
                T * GC + GC * D + 2 * T * D,   // of value
            ],
        ),
        ("add", vec![T * D + 2 * T * D; 2]), // x, out: after attention, after the experts
        ("moments", vec![T * E, T]),         // logits; losses
        ("warm_logits", vec![T * E + 2 * T * E]), // noise, logits
        ("route", vec![T * E]),              // logits
        ("route_grad", vec![T * E + T * E]), // logits, d_logits
        ("sort_by_expert", vec![R + R + R]), // choices, order, places
        // Weights and rows; answers' gradients, rows, weights' gradients: x, out.
        ("dispatch", vec![2 * R, 2 * R * D, 2 * R * D, 2 * R * D, 2 * R]),
        ("combine", vec![R * D + 2 * T * D; 2]), // answers onto the shared expert's; d_h
        (
            "grouped_matmul", // x, weights of all experts, out
            vec![
                R * D + E * 2 * F * D + R * 2 * F, // gate and up
                R * F + E * D * F + R * D,         // down
                R * D + E * D * F + R * F,         // by the input of down
                R * 2 * F + E * 2 * F * D + R * D, // by the input of gate and up
            ],
        ),
        (
            "grouped_matmul_weights", // dy, x, dw
            vec![R * D + R * F + E * D * F, R * 2 * F + R * D + E * 2 * F * D],
        ),
        // Gate and up, out: experts, shared expert.
        ("swiglu", vec![2 * R * F + R * F, 2 * T * F + T * F]),
        // d_out, gate and up, each read and overwritten.
        ("swiglu_grad", vec![2 * R * F + 4 * R * F, 2 * T * F + 4 * T * F]),
        ("column_scales", vec![V * D]),                                  // head
        ("scale_columns", vec![T * D + T * D; 2]),                       // features, their gradient: x, out
        ("cross_entropy_grad", vec![T * D + V * D + T + T * D + V * D]), // x, w, losses, d_x, d_w
        // Gradients of the embedding and of norms, neighbours together; two sums of each of two losses, four
        // of the router, loads, the sum of squares; that again.
        ("fill", vec![V * D + D, D, D, 2 + 2 + 4 + E + 1, 1]),
        ("sum_of_squares", vec![parameters]),
        // Parameter, gradient, first and second moment: all but the gradient twice.
        ("adamw", vec![2 * parameters + parameters + 2 * parameters + 2 * parameters]),
    ];
    (spec, numbers)
}

/// Ling v2 in a dense layer and a multi-token-prediction layer: head norms, sigmoid routing with a selection
/// bias, no shared expert, a tied head.
#[expect(clippy::too_many_lines, reason = "a table")]
fn ling_v2() -> (ModelSpec, ByHand) {
    let (v1, _) = ling_v1();
    let toy = presets::preset("toy").unwrap();
    let spec = ModelSpec {
        dense_layers: 1,
        dense_width: W as u32,
        shared_experts: 0,
        router: toy.router,
        qk_norm: true,
        norm_head: false,
        tied: true,
        mtp_layers: 1,
        ..v1
    };
    let attention = [HC * D, GC * D, GC * D, C, C, D * HC]; // query, key, value, two head norms, output
    let dense = [2 * W * D, D * W];
    let moe = [E * D, E * 2 * F * D, E * D * F];
    let tensors: Vec<usize> = [
        &[V * D, D][..], // embedding; the layer's first norm
        &attention,
        &[D],
        &dense,
        &[D, D, D, D * D, D * D, D], // final norm; two norms, two projections, the block's first norm
        &attention,
        &[D],
        &moe,
        &[D],
    ]
    .concat();
    let parameters = tensors.iter().sum();
    // a, b, out; the output twice where it is added to.
    let project = [T * D + HC * D + T * HC, T * D + GC * D + T * GC, T * D + GC * D + T * GC];
    let output = T * HC + D * HC + T * D;
    let attention_backward = [
        T * D + T * HC + D * HC, // gradient of the output projection
        T * D + D * HC + T * HC, // by its input
        T * HC + T * D + HC * D, // of query, key, value
        T * GC + T * D + GC * D,
        T * GC + T * D + GC * D,
        T * HC + HC * D + T * D, // by the input of query, key, value
        T * GC + GC * D + 2 * T * D,
        T * GC + GC * D + 2 * T * D,
    ];
    let numbers = vec![
        ("embedding", vec![T * D + T * D; 2]),
        ("embedding_grad", vec![T * D + 2 * T * D; 2]),
        (
            "rms_norm", // x, out
            [
                &[2 * T * D, 2 * T * HC, 2 * T * GC, 2 * T * D][..], // dense layer: attention, heads, mlp
                &[2 * T * D],                                        // head
                &[2 * T * D; 3],                                     // final, token, hidden
                &[2 * T * D, 2 * T * HC, 2 * T * GC, 2 * T * D],     // block
                &[2 * T * D],                                        // its head
                &[2 * T * D, 2 * T * HC, 2 * T * GC, 2 * T * D],     // again, backward: mlp, heads, attention
                &[2 * T * D, 2 * T * HC, 2 * T * GC, 2 * T * D],     // again in the dense layer
            ]
            .concat(),
        ),
        (
            "rms_norm_grad", // d_out, x, d_x; d_x twice where it is added to
            [
                &[3 * T * D, 3 * T * D][..],                     // head; the other head
                &[4 * T * D, 3 * T * HC, 3 * T * GC, 4 * T * D], // block: mlp, heads, attention
                &[3 * T * D, 3 * T * D, 4 * T * D],              // token, hidden, final
                &[4 * T * D, 3 * T * HC, 3 * T * GC, 4 * T * D], // dense layer
            ]
            .concat(),
        ),
        // Forward twice; backward each layer first as forward, then back.
        ("rope", [2 * T * HC, 2 * T * GC].repeat(6)),
        ("attention", vec![T * HC + T * GC + T * GC + T * HC + T * H; 2]),
        ("attention_grad", vec![4 * T * HC + 4 * T * GC + T * H; 2]),
        (
            "matmul",
            [
                &project[..],
                &[output],
                &[T * D + 2 * W * D + T * 2 * W, T * W + D * W + T * D], // dense gate and up, down
                &[T * D + D * D + T * D, T * D + D * D + 2 * T * D],     // projections of token and hidden
                &project,
                &[output],
                &[T * D + E * D + T * E],                            // router
                &[T * E + T * D + E * D, T * E + E * D + 2 * T * D], // its gradient, and by its input
                &attention_backward,
                &[T * D + T * D + D * D; 2], // gradients of the projections
                &[T * D + D * D + T * D; 2], // by their inputs
                &[T * D + D * W + T * W, T * D + T * W + D * W], // by the input of dense down, its gradient
                &[T * 2 * W + T * D + 2 * W * D, T * 2 * W + 2 * W * D + T * D], // of gate and up
                &attention_backward,
            ]
            .concat(),
        ),
        ("add", vec![T * D + 2 * T * D; 4]),
        ("moments", vec![T; 2]),
        ("route", vec![T * E]),
        ("route_grad", vec![T * E + T * E]),
        ("sort_by_expert", vec![R + R + R]),
        ("dispatch", vec![2 * R, 2 * R * D, 2 * R * D, 2 * R * D, 2 * R]),
        ("combine", vec![R * D + T * D; 2]),
        (
            "grouped_matmul",
            vec![
                R * D + E * 2 * F * D + R * 2 * F,
                R * F + E * D * F + R * D,
                R * D + E * D * F + R * F,
                R * 2 * F + E * 2 * F * D + R * D,
            ],
        ),
        ("grouped_matmul_weights", vec![R * D + R * F + E * D * F, R * 2 * F + R * D + E * 2 * F * D]),
        ("swiglu", vec![3 * T * W, 3 * R * F]),
        ("swiglu_grad", vec![6 * R * F, 6 * T * W]),
        (
            "cross_entropy_grad", // the second head's gradient is added to the first's
            vec![T * D + V * D + T + T * D + V * D, T * D + V * D + T + T * D + 2 * V * D],
        ),
        ("fill", vec![D, 2 * C, D, 3 * D, D, 2 * C, D, D, 2 + 2 + 4 + E + 1, 1]),
        ("sum_of_squares", vec![parameters]),
        ("adamw", vec![7 * parameters]),
        ("balance_bias", vec![E + 2 * E]), // loads, bias
    ];
    (spec, numbers)
}

#[test]
fn every_op_moves_the_bytes_that_a_hand_count_of_its_operands_gives() {
    for (name, (spec, by_hand), sums) in [("v1", ling_v1(), sums_of_v1()), ("v2", ling_v2(), sums_of_v2())] {
        spec.check().unwrap();
        let case = Case {
            micro: 2,
            micros: 1,
            sequence: T / 2,
            recompute: vec![Recompute::Nothing],
            warming: spec.router.warmup_steps > 0,
            kind: Kind::F32,
        };
        agree(name, &spec, &case, &by_hand, |_, _, numbers| 4 * numbers);
        let in_bf16 = |op: &str, call: usize, numbers: usize| {
            // The copy of the parameter, beside it, the gradient, and both moments twice.
            let copied = if op == "adamw" { numbers / 7 } else { 0 };
            let are_sums = ALL_SUMS.contains(&op);
            let listed = sums.iter().find(|(name, _)| *name == op).map_or(0, |(_, calls)| calls[call]);
            let sums = if are_sums { numbers } else { listed };
            4 * sums + 2 * (numbers - sums + copied)
        };
        agree(name, &spec, &Case { kind: Kind::Bf16, ..case }, &by_hand, in_bf16);
    }
}

/// What is promised and what is counted, against the hand count in bytes: of an op, its n-th call, and the
/// numbers that this call moves.
fn agree(
    name: &str,
    spec: &ModelSpec,
    case: &Case,
    by_hand: &ByHand,
    bytes_of: impl Fn(&str, usize, usize) -> usize,
) {
    let promised: Vec<_> = case.promised(spec).ops.iter().map(|op| (op.name, op.cost)).collect();
    let (count, _) = counted(spec, case);
    for (source, ops) in [("promised", promised), ("counted", count.ops)] {
        for (op, numbers) in by_hand {
            let bytes: Vec<f64> =
                ops.iter().filter(|(name, _)| name == op).map(|(_, cost)| cost.bytes).collect();
            let expected: Vec<f64> = numbers
                .iter()
                .enumerate()
                .map(|(call, &numbers)| bytes_of(op, call, numbers) as f64)
                .collect();
            assert_eq!(expected, bytes, "{name} {:?}: bytes of each call of {op}, {source}", case.kind);
        }
        let all: usize = by_hand.iter().map(|(_, numbers)| numbers.len()).sum();
        assert_eq!(ops.len(), all, "{name}: ops, {source}");
    }
}

/// Ops that move sums alone, which are f32 whatever values are.
const ALL_SUMS: [&str; 8] =
    ["fill", "sum_of_squares", "adamw", "moments", "warm_logits", "route", "sort_by_expert", "balance_bias"];

/// Sums among the numbers of the other ops that move any, by call: gradients by weights, and what of a router
/// and a softmax is never rounded.
fn sums_of_v1() -> ByHand {
    vec![
        ("embedding_grad", vec![2 * T * D]), // rows of the table
        ("attention", vec![T * H]),          // lse
        ("attention_grad", vec![T * H]),
        (
            "matmul",
            [
                &[0; 4][..],                        // query, key, value, output
                &[T * E, 0, 0],                     // logits; shared gate and up, shared down
                &[0, D * F],                        // by the input of shared down; its gradient
                &[2 * F * D, 0],                    // of shared gate and up
                &[E * D, 0],                        // of the router
                &[D * HC, 0],                       // of the output projection
                &[HC * D, GC * D, GC * D, 0, 0, 0], // of query, key, value; by their inputs
            ]
            .concat(),
        ),
        ("route_grad", vec![T * E]),               // logits
        ("dispatch", vec![2 * R, 0, 0, 0, 2 * R]), // weights and their gradients
        ("grouped_matmul_weights", vec![E * D * F, E * 2 * F * D]),
        ("cross_entropy_grad", vec![T + V * D]), // losses, d_w
    ]
}

/// As `sums_of_v1`.
fn sums_of_v2() -> ByHand {
    let attention = [D * HC, 0, HC * D, GC * D, GC * D, 0, 0, 0];
    let matmul = [
        &[0; 4][..],     // projections and output of the dense layer
        &[0, 0],         // dense gate and up, down
        &[0, 0],         // projections of token and hidden
        &[0; 4],         // projections and output of the block
        &[T * E],        // logits
        &[E * D, 0],     // gradient of the router
        &attention,      // of the block
        &[D * D; 2],     // of the projections of token and hidden
        &[0, 0],         // by their inputs
        &[0, D * W],     // of dense down
        &[2 * W * D, 0], // of dense gate and up
        &attention,
    ];
    vec![
        ("embedding_grad", vec![2 * T * D; 2]),
        ("attention", vec![T * H; 2]),
        ("attention_grad", vec![T * H; 2]),
        ("matmul", matmul.concat()),
        ("route_grad", vec![T * E]),
        ("dispatch", vec![2 * R, 0, 0, 0, 2 * R]),
        ("grouped_matmul_weights", vec![E * D * F, E * 2 * F * D]),
        ("cross_entropy_grad", vec![T + V * D, T + 2 * V * D]),
    ]
}
