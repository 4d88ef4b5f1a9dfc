//! From an op to the file of its name.

use super::value::Words;
use super::{
    Torch, adamw, attention, balance_bias, combine, cross_entropy, dispatch, elementwise, embedding,
    grouped_matmul, matmul, norm_head, rms_norm, rope, route, route_grad, sort_by_expert, sums, swiglu,
};
use crate::op::Op;

/// Enqueues one op.
pub(super) fn run(torch: &Torch, op: Op<'_>) -> Result<(), Words> {
    match op {
        Op::MatMul { a, b, out, flip, add } => matmul::matmul(torch, [a, b], out, flip, add),
        Op::GroupedMatMul { x, w_enk, ends_e, out, flip } => {
            grouped_matmul::grouped_matmul(torch, x, w_enk, ends_e, out, flip)
        }
        Op::GroupedMatMulWeights { dy_rn, x_rk, ends_e, dw_enk } => {
            grouped_matmul::weights(torch, dy_rn, x_rk, ends_e, dw_enk)
        }
        Op::Embedding { table_vd, tokens_t, out_td } => {
            embedding::embedding(torch, table_vd, tokens_t, out_td)
        }
        Op::EmbeddingGrad { d_out_td, tokens_t, d_table_vd } => {
            embedding::grad(torch, d_out_td, tokens_t, d_table_vd)
        }
        Op::RmsNorm { .. } | Op::RmsNormGrad { .. } => rms_norm::run(torch, op),
        Op::Rope { x_thc, positions_t, rotary_width, theta, back } => {
            rope::rope(torch, x_thc, positions_t, [rotary_width, usize::from(back)], theta)
        }
        Op::Attention { .. } | Op::AttentionGrad { .. } => attention::run(torch, op),
        Op::Swiglu { gate_up, weights_r, out_rf } => swiglu::swiglu(torch, gate_up, weights_r, out_rf),
        Op::SwigluGrad { gate_up, weights_r, d_out_rf, d_gate_up, d_weights_r } => {
            swiglu::grad(torch, [gate_up, d_out_rf], weights_r, d_gate_up, d_weights_r)
        }
        Op::Route { .. } => route::route(torch, op),
        Op::RouteGrad { .. } => route_grad::route_grad(torch, op),
        Op::WarmLogits { logits_te, noise_te, keep, mean, deviation } => {
            route::warm(torch, logits_te, noise_te, [keep, mean, deviation])
        }
        Op::SortByExpert { experts_tk, ends_e, order_r, places_tk } => {
            sort_by_expert::sort(torch, experts_tk, ends_e, order_r, places_tk)
        }
        Op::Dispatch { x_td, order_r, choices, out_rd } => {
            dispatch::dispatch(torch, x_td, order_r, choices, out_rd)
        }
        Op::Combine { x_rd, places_tk, out_td, add } => combine::combine(torch, x_rd, places_tk, out_td, add),
        Op::ColumnScales { w_vd, out_d } => norm_head::column_scales(torch, w_vd, out_d),
        Op::ScaleColumns { x_td, scales_d, out_td } => {
            norm_head::scale_columns(torch, x_td, scales_d, out_td)
        }
        Op::CrossEntropy { .. } | Op::CrossEntropyGrad { .. } => cross_entropy::run(torch, op),
        Op::AdamW { parameter, gradient, first, second, squares_1, rule } => {
            adamw::step(torch, [parameter, gradient, first, second], squares_1, rule)
        }
        Op::SumOfSquares { x, out_1 } => sums::sum_of_squares(torch, x, out_1),
        Op::Moments { x, out_2 } => sums::moments(torch, x, out_2),
        Op::BalanceBias { loads_e, bias_e, rate } => balance_bias::step(torch, loads_e, bias_e, rate),
        Op::Add { x, out } => elementwise::add(torch, x, out),
        Op::Copy { x, out } => torch.flat(torch.written(out))?.set(&torch.flat(x)?),
        Op::Fill { out, value } => elementwise::fill(torch, out, value),
    }
}
