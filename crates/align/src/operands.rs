//! The tensors of an op by name, and its numbers as text: what a trace records of it.

use Access::{Adds, In, Out};
use lingot_device::{Op, Tensor};

/// What an op does with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads it.
    In,
    /// Overwrites it, whatever was there.
    Out,
    /// Reads and writes it.
    Adds,
}

impl Access {
    fn of(adds: bool) -> Access {
        if adds { Adds } else { Out }
    }
}

pub(crate) type Operand<'a> = (&'static str, &'a Tensor, Access);

/// All tensors of `op`, in a fixed order.
#[expect(clippy::too_many_lines, reason = "a table: each op and its tensors")]
pub(crate) fn operands<'a>(op: &Op<'a>) -> Vec<Operand<'a>> {
    match *op {
        Op::MatMul { a, b, out, add, .. } => vec![("a", a, In), ("b", b, In), ("out", out, Access::of(add))],
        Op::GroupedMatMul { x, w_enk, ends_e, out, .. } => {
            vec![("x", x, In), ("w", w_enk, In), ("ends", ends_e, In), ("out", out, Out)]
        }
        Op::GroupedMatMulWeights { dy_rn, x_rk, ends_e, dw_enk } => {
            vec![("dy", dy_rn, In), ("x", x_rk, In), ("ends", ends_e, In), ("dw", dw_enk, Adds)]
        }
        Op::Embedding { table_vd, tokens_t, out_td } => {
            vec![("table", table_vd, In), ("tokens", tokens_t, In), ("out", out_td, Out)]
        }
        Op::EmbeddingGrad { d_out_td, tokens_t, d_table_vd } => {
            vec![("d_out", d_out_td, In), ("tokens", tokens_t, In), ("d_table", d_table_vd, Adds)]
        }
        Op::RmsNorm { x, scale_d, out, .. } => vec![("x", x, In), ("scale", scale_d, In), ("out", out, Out)],
        Op::RmsNormGrad { d_out, x, scale_d, d_x, d_scale_d, add, .. } => vec![
            ("d_out", d_out, In),
            ("x", x, In),
            ("scale", scale_d, In),
            ("d_x", d_x, Access::of(add)),
            ("d_scale", d_scale_d, Adds),
        ],
        Op::Rope { x_thc, positions_t, .. } => vec![("x", x_thc, Adds), ("positions", positions_t, In)],
        Op::Attention { q_thc, k_sgc, v_sgc, starts_t, out_thc, lse_th, .. } => vec![
            ("q", q_thc, In),
            ("k", k_sgc, In),
            ("v", v_sgc, In),
            ("starts", starts_t, In),
            ("out", out_thc, Out),
            ("lse", lse_th, Out),
        ],
        Op::AttentionGrad {
            d_out_thc,
            q_thc,
            k_sgc,
            v_sgc,
            starts_t,
            out_thc,
            lse_th,
            d_q_thc,
            d_k_sgc,
            d_v_sgc,
            ..
        } => vec![
            ("d_out", d_out_thc, In),
            ("q", q_thc, In),
            ("k", k_sgc, In),
            ("v", v_sgc, In),
            ("starts", starts_t, In),
            ("out", out_thc, In),
            ("lse", lse_th, In),
            ("d_q", d_q_thc, Out),
            ("d_k", d_k_sgc, Out),
            ("d_v", d_v_sgc, Out),
        ],
        Op::Swiglu { gate_up, weights_r, out_rf } => {
            let weights = weights_r.map(|weights_r| ("weights", weights_r, In));
            [("gate_up", gate_up, In)].into_iter().chain(weights).chain([("out", out_rf, Out)]).collect()
        }
        Op::SwigluGrad { gate_up, weights_r, d_out_rf, d_gate_up, d_weights_r } => {
            let weights = weights_r.map(|weights_r| ("weights", weights_r, In));
            let d_weights = d_weights_r.map(|d_weights_r| ("d_weights", d_weights_r, Out));
            let given = [("gate_up", gate_up, In), ("d_out", d_out_rf, In), ("d_gate_up", d_gate_up, Out)];
            given.into_iter().chain(weights).chain(d_weights).collect()
        }
        Op::Route { logits_te, bias_e, experts_tk, weights_tk, counts_ge, loads_e, losses_2, .. } => {
            let bias = bias_e.map(|bias_e| ("bias", bias_e, In));
            let rest = [
                ("experts", experts_tk, Out),
                ("weights", weights_tk, Out),
                ("counts", counts_ge, Out),
                ("loads", loads_e, Adds),
                ("losses", losses_2, Adds),
            ];
            [("logits", logits_te, In)].into_iter().chain(bias).chain(rest).collect()
        }
        Op::RouteGrad { logits_te, experts_tk, counts_ge, d_weights_tk, d_logits_te, .. } => vec![
            ("logits", logits_te, In),
            ("experts", experts_tk, In),
            ("counts", counts_ge, In),
            ("d_weights", d_weights_tk, In),
            ("d_logits", d_logits_te, Out),
        ],
        Op::WarmLogits { logits_te, noise_te, .. } => {
            vec![("logits", logits_te, Adds), ("noise", noise_te, In)]
        }
        Op::SortByExpert { experts_tk, ends_e, order_r, places_tk } => vec![
            ("experts", experts_tk, In),
            ("ends", ends_e, Out),
            ("order", order_r, Out),
            ("places", places_tk, Out),
        ],
        Op::Dispatch { x_td, order_r, out_rd, .. } => {
            vec![("x", x_td, In), ("order", order_r, In), ("out", out_rd, Out)]
        }
        Op::Combine { x_rd, places_tk, out_td, add } => {
            vec![("x", x_rd, In), ("places", places_tk, In), ("out", out_td, Access::of(add))]
        }
        Op::ColumnScales { w_vd, out_d } => vec![("w", w_vd, In), ("out", out_d, Out)],
        Op::ScaleColumns { x_td, scales_d, out_td } => {
            vec![("x", x_td, In), ("scales", scales_d, In), ("out", out_td, Out)]
        }
        Op::CrossEntropy { x_td, w_vd, targets_t, losses_t } => {
            vec![("x", x_td, In), ("w", w_vd, In), ("targets", targets_t, In), ("losses", losses_t, Out)]
        }
        Op::CrossEntropyGrad { x_td, w_vd, targets_t, losses_t, d_x_td, d_w_vd, .. } => vec![
            ("x", x_td, In),
            ("w", w_vd, In),
            ("targets", targets_t, In),
            ("losses", losses_t, Out),
            ("d_x", d_x_td, Out),
            ("d_w", d_w_vd, Adds),
        ],
        Op::AdamW { parameter, gradient, first, second, squares_1, .. } => vec![
            ("parameter", parameter, Adds),
            ("gradient", gradient, In),
            ("first", first, Adds),
            ("second", second, Adds),
            ("squares", squares_1, In),
        ],
        Op::SumOfSquares { x, out_1 } => vec![("x", x, In), ("out", out_1, Adds)],
        Op::Moments { x, out_2 } => vec![("x", x, In), ("out", out_2, Adds)],
        Op::BalanceBias { loads_e, bias_e, .. } => vec![("loads", loads_e, In), ("bias", bias_e, Adds)],
        Op::Add { x, out } => vec![("x", x, In), ("out", out, Adds)],
        Op::Copy { x, out } => vec![("x", x, In), ("out", out, Out)],
        Op::Fill { out, .. } => vec![("out", out, Out)],
    }
}

/// The numbers of `op` that are not in tensors.
pub(crate) fn arguments(op: &Op<'_>) -> String {
    match *op {
        Op::MatMul { flip, add, .. } => format!("flip {} {} add {add}", flip.a, flip.b),
        Op::GroupedMatMul { flip, .. } => format!("flip {flip}"),
        Op::RmsNorm { epsilon, .. } => format!("epsilon {epsilon:e}"),
        Op::RmsNormGrad { epsilon, add, .. } => format!("epsilon {epsilon:e} add {add}"),
        Op::Rope { rotary_width, theta, back, .. } => {
            format!("width {rotary_width} theta {theta} back {back}")
        }
        Op::Attention { scale, .. }
        | Op::AttentionGrad { scale, .. }
        | Op::CrossEntropyGrad { scale, .. } => {
            format!("scale {scale:e}")
        }
        Op::Route { rule, .. } => format!("{rule:?}"),
        Op::RouteGrad { rule, balance_scale, z_scale, keep, .. } => {
            format!("{rule:?} balance_scale {balance_scale:e} z_scale {z_scale:e} keep {keep}")
        }
        Op::WarmLogits { keep, mean, deviation, .. } => {
            format!("keep {keep} mean {mean} deviation {deviation}")
        }
        Op::Dispatch { choices, .. } => format!("choices {choices}"),
        Op::Combine { add, .. } => format!("add {add}"),
        Op::AdamW { rule, .. } => format!("{rule:?}"),
        Op::BalanceBias { rate, .. } => format!("rate {rate:e}"),
        Op::Fill { value, .. } => format!("value {value}"),
        _ => String::new(),
    }
}
