//! From tensors to the definitions and back.

use super::attention::Attention;
use super::rope::Rope;
use super::route::{self, RouteGrad};
use super::{
    adamw, balance_bias, combine, cross_entropy, dispatch, elementwise, embedding, grouped_matmul, matmul,
};
use super::{norm_head, rms_norm, sort_by_expert, sums, swiglu};
use crate::host::{view, view_mut};
use crate::op::Op;
use crate::precision::{Precision, operand};
use crate::tensor::{Kind, Tensor};

/// Runs one op by its definition.
#[expect(clippy::too_many_lines, reason = "a table: each op and its definition")]
pub(super) fn run(op: Op<'_>, precision: Precision) {
    let operand = |tensor: &Tensor| rounded(tensor, precision);
    match op {
        Op::MatMul { a, b, out, flip, add } => {
            let (m, n) = out.rows_and_width();
            let k = if flip.a { a.shape()[0] } else { a.rows_and_width().1 };
            store(out, &matmul::matmul(&operand(a), &operand(b), [m, k, n], flip), add);
        }
        Op::GroupedMatMul { x, w_enk, ends_e, out, flip } => {
            let define = if flip { grouped_matmul::flipped } else { grouped_matmul::forward };
            store(out, &define(&operand(x), &operand(w_enk), &integers(ends_e), matrix(w_enk)), false);
        }
        Op::GroupedMatMulWeights { dy_rn, x_rk, ends_e, dw_enk } => {
            let dw =
                grouped_matmul::weights(&operand(dy_rn), &operand(x_rk), &integers(ends_e), matrix(dw_enk));
            store(dw_enk, &dw, true);
        }
        Op::Embedding { table_vd, tokens_t, out_td } => {
            let out = embedding::forward(&floats(table_vd), &integers(tokens_t), width(table_vd));
            store(out_td, &out, false);
        }
        Op::EmbeddingGrad { d_out_td, tokens_t, d_table_vd } => {
            let mut d_table = floats(d_table_vd);
            embedding::backward(&floats(d_out_td), &integers(tokens_t), width(d_out_td), &mut d_table);
            store(d_table_vd, &d_table, false);
        }
        Op::RmsNorm { x, scale_d, epsilon, out } => {
            store(out, &rms_norm::forward(&floats(x), &floats(scale_d), epsilon), false);
        }
        Op::RmsNormGrad { d_out, x, scale_d, epsilon, d_x, d_scale_d, add } => {
            let gradients = rms_norm::backward(&floats(d_out), &floats(x), &floats(scale_d), epsilon);
            store(d_x, &gradients.0, add);
            store(d_scale_d, &gradients.1, true);
        }
        Op::Rope { x_thc, positions_t, rotary_width, theta, back } => {
            let rope = Rope { heads: x_thc.shape()[1], width: width(x_thc), rotary_width, theta };
            let mut x = floats(x_thc);
            rope.rotate(&mut x, &integers(positions_t), back);
            store(x_thc, &x, false);
        }
        Op::Attention { q_thc, k_sgc, v_sgc, starts_t, scale, out_thc, lse_th } => {
            with_attention([q_thc, k_sgc, v_sgc, starts_t], scale, precision, |attention| {
                let (out, lse) = attention.forward();
                store(out_thc, &out, false);
                store(lse_th, &lse, false);
            });
        }
        // The definition takes the softmax anew, so it has no use for `out_thc` and `lse_th`.
        Op::AttentionGrad {
            d_out_thc,
            q_thc,
            k_sgc,
            v_sgc,
            starts_t,
            scale,
            d_q_thc,
            d_k_sgc,
            d_v_sgc,
            ..
        } => {
            with_attention([q_thc, k_sgc, v_sgc, starts_t], scale, precision, |attention| {
                let [d_q, d_k, d_v] = attention.backward(&floats(d_out_thc));
                store(d_q_thc, &d_q, false);
                store(d_k_sgc, &d_k, false);
                store(d_v_sgc, &d_v, false);
            });
        }
        Op::Swiglu { gate_up, weights_r, out_rf } => {
            let weights = weights_r.map(floats);
            store(out_rf, &swiglu::forward(&floats(gate_up), weights.as_deref(), width(out_rf)), false);
        }
        Op::SwigluGrad { gate_up, weights_r, d_out_rf, d_gate_up, d_weights_r } => {
            let weights = weights_r.map(floats);
            let f = width(d_out_rf);
            let gradients = swiglu::backward(&floats(d_out_rf), &floats(gate_up), weights.as_deref(), f);
            store(d_gate_up, &gradients.0, false);
            if let Some(d_weights_r) = d_weights_r {
                store(d_weights_r, &gradients.1, false);
            }
        }
        Op::Route { logits_te, bias_e, rule, experts_tk, weights_tk, counts_ge, loads_e, losses_2 } => {
            let (bias, e) = (bias_e.map(floats), width(logits_te));
            let routed = route::forward(&floats(logits_te), bias.as_deref(), rule, e);
            store_integers(experts_tk, &routed.experts);
            store(weights_tk, &routed.weights, false);
            store_integers(counts_ge, &routed.counts);
            let mut loads = integers(loads_e);
            routed.experts.iter().for_each(|&expert| loads[expert as usize] += 1);
            store_integers(loads_e, &loads);
            store(losses_2, &routed.losses, true);
        }
        Op::RouteGrad {
            logits_te,
            experts_tk,
            counts_ge,
            d_weights_tk,
            rule,
            balance_scale,
            z_scale,
            keep,
            d_logits_te,
        } => {
            let (experts, counts) = (&integers(experts_tk), &integers(counts_ge));
            let d_weights = &floats(d_weights_tk);
            let grad = RouteGrad { experts, counts, d_weights, rule, balance_scale, z_scale, keep };
            store(d_logits_te, &grad.by_logits(&floats(logits_te), width(logits_te)), false);
        }
        Op::WarmLogits { logits_te, noise_te, keep, mean, deviation } => {
            let warm = route::warm(&floats(logits_te), &floats(noise_te), [keep, mean, deviation]);
            store(logits_te, &warm, false);
        }
        Op::SortByExpert { experts_tk, ends_e, order_r, places_tk } => {
            let sorted = sort_by_expert::sort(&integers(experts_tk), ends_e.len());
            store_integers(ends_e, &sorted.ends);
            store_integers(order_r, &sorted.order);
            store_integers(places_tk, &sorted.places);
        }
        Op::Dispatch { x_td, order_r, choices, out_rd } => {
            let out = dispatch::dispatch(&floats(x_td), &integers(order_r), choices, width(x_td));
            store(out_rd, &out, false);
        }
        Op::Combine { x_rd, places_tk, out_td, add } => {
            let out = combine::combine(&floats(x_rd), &integers(places_tk), width(places_tk), width(x_rd));
            store(out_td, &out, add);
        }
        Op::ColumnScales { w_vd, out_d } => {
            store(out_d, &norm_head::column_scales(&floats(w_vd), width(w_vd)), false);
        }
        Op::ScaleColumns { x_td, scales_d, out_td } => {
            store(out_td, &norm_head::scale_columns(&floats(x_td), &floats(scales_d)), false);
        }
        Op::CrossEntropy { x_td, w_vd, targets_t, losses_t } => {
            let (x, w, targets) = (operand(x_td), operand(w_vd), integers(targets_t));
            store(losses_t, &cross_entropy::losses(&x, &w, &targets, width(x_td)), false);
        }
        Op::CrossEntropyGrad { x_td, w_vd, targets_t, scale, losses_t, d_x_td, d_w_vd } => {
            let (x, w, targets) = (operand(x_td), operand(w_vd), integers(targets_t));
            let (d_x, d_w) = cross_entropy::backward(&x, &w, &targets, width(x_td), scale, precision);
            store(losses_t, &cross_entropy::losses(&x, &w, &targets, width(x_td)), false);
            store(d_x_td, &d_x, false);
            store(d_w_vd, &d_w, true);
        }
        Op::AdamW { parameter, gradient, first, second, squares_1, rule } => {
            let [p, m, v] = [parameter, first, second].map(floats);
            let mut state = adamw::State { parameter: p, first: m, second: v };
            state.step(&floats(gradient), floats(squares_1)[0], rule);
            store(parameter, &state.parameter, false);
            store(first, &state.first, false);
            store(second, &state.second, false);
        }
        Op::SumOfSquares { x, out_1 } => store(out_1, &sums::moments(&floats(x))[1..], true),
        Op::Moments { x, out_2 } => store(out_2, &sums::moments(&floats(x)), true),
        Op::BalanceBias { loads_e, bias_e, rate } => {
            let mut bias = floats(bias_e);
            balance_bias::step(&integers(loads_e), &mut bias, rate);
            store(bias_e, &bias, false);
        }
        Op::Add { x, out } => store(out, &floats(x), true),
        Op::Copy { x, out } => match out.kind() {
            Kind::I32 => store_integers(out, &integers(x)),
            Kind::F32 | Kind::F64 => store(out, &floats(x), false),
        },
        Op::Fill { out, value } => match out.kind() {
            Kind::I32 => view_mut::<i32>(out).fill(value as i32),
            Kind::F32 | Kind::F64 => store(out, &vec![value; out.len()], false),
        },
    }
}

fn with_attention(
    [q, k, v, starts]: [&Tensor; 4],
    scale: f64,
    precision: Precision,
    then: impl FnOnce(Attention<'_>),
) {
    then(Attention {
        q: &rounded(q, precision),
        k: &rounded(k, precision),
        v: &rounded(v, precision),
        precision,
        starts: &integers(starts),
        scale,
        heads: q.shape()[1],
        kv_heads: k.shape()[1],
        width: width(q),
    });
}

fn width(tensor: &Tensor) -> usize {
    tensor.rows_and_width().1
}

/// N and K of weights [E, N, K].
fn matrix(w_enk: &Tensor) -> [usize; 2] {
    [w_enk.shape()[1], w_enk.shape()[2]]
}

/// A float tensor's numbers, exactly.
fn floats(tensor: &Tensor) -> Vec<f64> {
    match tensor.kind() {
        Kind::F64 => view::<f64>(tensor).to_vec(),
        Kind::F32 | Kind::I32 => view::<f32>(tensor).iter().map(|&x| f64::from(x)).collect(),
    }
}

/// A product's operand.
fn rounded(tensor: &Tensor, precision: Precision) -> Vec<f64> {
    floats(tensor).into_iter().map(|x| operand(precision, x)).collect()
}

fn integers(tensor: &Tensor) -> Vec<i32> {
    view::<i32>(tensor).to_vec()
}

/// Writes, or adds to what is there, and rounds once.
fn store(tensor: &Tensor, values: &[f64], add: bool) {
    let sums = if add { elementwise::add(&floats(tensor), values) } else { values.to_vec() };
    assert_eq!(sums.len(), tensor.len(), "values for {tensor:?}");
    match tensor.kind() {
        Kind::F64 => view_mut::<f64>(tensor).copy_from_slice(&sums),
        Kind::F32 | Kind::I32 => {
            view_mut::<f32>(tensor).iter_mut().zip(sums).for_each(|(to, from)| *to = from as f32);
        }
    }
}

fn store_integers(tensor: &Tensor, values: &[i32]) {
    view_mut::<i32>(tensor).copy_from_slice(values);
}
