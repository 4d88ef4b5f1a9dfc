//! From an op and its tensors to a kernel and its slices.

use super::attention::{Attention, attention};
use super::attention_grad::{Saved, attention_grad};
use super::cross_entropy::{Head, cross_entropy, cross_entropy_grad};
use super::gemm::Sizes;
use super::grouped_matmul::{Experts, grouped_matmul, grouped_matmul_weights};
use super::rms_norm::{NormGrad, rms_norm, rms_norm_grad};
use super::rope::{Rotated, rope};
use super::route::{RouteGrad, Routed, route, route_grad, warm_logits};
use super::swiglu::{Gated, swiglu, swiglu_grad};
use super::team::Team;
use super::{
    Room, adamw, balance_bias, combine, dispatch, elementwise, embedding, matmul, norm_head, sort_by_expert,
    sums,
};
use crate::error::{Error, Result};
use crate::host::{view, view_mut};
use crate::op::Op;
use crate::tensor::{Kind, Tensor};

/// Runs one op.
pub(super) fn run(team: &Team, room: &mut Room, op: Op<'_>) -> Result<()> {
    match op {
        Op::MatMul { .. } | Op::GroupedMatMul { .. } | Op::GroupedMatMulWeights { .. } => {
            products(team, room, op)
        }
        Op::Embedding { .. }
        | Op::EmbeddingGrad { .. }
        | Op::CrossEntropy { .. }
        | Op::CrossEntropyGrad { .. } => vocabulary(team, room, op),
        Op::Attention { .. } | Op::AttentionGrad { .. } | Op::Rope { .. } => heads(team, room, op),
        Op::RmsNorm { .. }
        | Op::RmsNormGrad { .. }
        | Op::Swiglu { .. }
        | Op::SwigluGrad { .. }
        | Op::ColumnScales { .. }
        | Op::ScaleColumns { .. } => rows(team, room, op),
        Op::Route { .. }
        | Op::RouteGrad { .. }
        | Op::WarmLogits { .. }
        | Op::SortByExpert { .. }
        | Op::Dispatch { .. }
        | Op::Combine { .. }
        | Op::BalanceBias { .. } => routing(team, room, op),
        Op::AdamW { .. } | Op::SumOfSquares { .. } | Op::Moments { .. } | Op::Add { .. } => {
            elements(team, room, op)
        }
        Op::Copy { x, out } => copy(team, x, out),
        Op::Fill { out, value } => {
            match out.kind() {
                Kind::F64 => elementwise::fill(team, view_mut::<f64>(out), value),
                Kind::F32 => elementwise::fill_floats(team, view_mut(out), value as f32),
                Kind::I32 => elementwise::fill(team, view_mut(out), value as i32),
            }
            Ok(())
        }
    }
}

fn products(team: &Team, room: &mut Room, op: Op<'_>) -> Result<()> {
    match op {
        Op::MatMul { a, b, out, flip, add } => {
            let (m, n) = out.rows_and_width();
            let k = a.shape()[usize::from(!flip.a)];
            matmul::matmul(team, Sizes { m, n, k }, floats(a)?, floats(b)?, floats_mut(out)?, flip, add);
        }
        Op::GroupedMatMul { x, w_enk, ends_e, out, flip } => {
            let experts = experts(ends_e, w_enk, x)?;
            grouped_matmul(
                team,
                experts,
                floats(x)?,
                floats(w_enk)?,
                floats_mut(out)?,
                flip,
                &mut room.indices,
            );
        }
        Op::GroupedMatMulWeights { dy_rn, x_rk, ends_e, dw_enk } => {
            let experts = experts(ends_e, dw_enk, x_rk)?;
            let (dy, x, dw) = (floats(dy_rn)?, floats(x_rk)?, floats_mut(dw_enk)?);
            grouped_matmul_weights(team, experts, dy, x, dw, &mut room.indices);
        }
        _ => unreachable!("another family's op"),
    }
    Ok(())
}

/// The ends, checked: they rise, and the last is the number of rows.
fn experts<'a>(ends_e: &'a Tensor, w_enk: &Tensor, x: &Tensor) -> Result<Experts<'a>> {
    let ends = view::<i32>(ends_e);
    let rows = x.shape()[0];
    let rise = ends.is_sorted() && ends.first().is_none_or(|&end| end >= 0);
    if !rise || ends.last().is_some_and(|&end| end as usize > rows) {
        return Err(Error::Value {
            op: "grouped_matmul",
            what: "ends",
            found: format!("{ends:?}"),
            wanted: format!("rising from 0 to at most {rows}"),
        });
    }
    Ok(Experts { ends_e: ends, n: w_enk.shape()[1], k: w_enk.shape()[2] })
}

fn vocabulary(team: &Team, room: &mut Room, op: Op<'_>) -> Result<()> {
    match op {
        Op::Embedding { table_vd, tokens_t, out_td } => {
            let (v, d) = table_vd.rows_and_width();
            let tokens = below("embedding", "a token", tokens_t, 0, v)?;
            embedding::embedding(team, floats(table_vd)?, tokens, d, floats_mut(out_td)?);
        }
        Op::EmbeddingGrad { d_out_td, tokens_t, d_table_vd } => {
            let (v, d) = d_table_vd.rows_and_width();
            let tokens = below("embedding_grad", "a token", tokens_t, 0, v)?;
            embedding::embedding_grad(team, floats(d_out_td)?, tokens, d, floats_mut(d_table_vd)?);
        }
        Op::CrossEntropy { x_td, w_vd, targets_t, losses_t } => {
            let head = head("cross_entropy", x_td, w_vd, targets_t)?;
            cross_entropy(team, head, floats_mut(losses_t)?, &mut room.floats);
        }
        Op::CrossEntropyGrad { x_td, w_vd, targets_t, scale, losses_t, d_x_td, d_w_vd } => {
            let head = head("cross_entropy_grad", x_td, w_vd, targets_t)?;
            let (losses, d_x, d_w) = (floats_mut(losses_t)?, floats_mut(d_x_td)?, floats_mut(d_w_vd)?);
            cross_entropy_grad(team, head, scale, losses, d_x, d_w, &mut room.floats);
        }
        _ => unreachable!("another family's op"),
    }
    Ok(())
}

fn head<'a>(op: &'static str, x_td: &'a Tensor, w_vd: &'a Tensor, targets_t: &'a Tensor) -> Result<Head<'a>> {
    let (v, d) = w_vd.rows_and_width();
    Ok(Head {
        d,
        x_td: floats(x_td)?,
        w_vd: floats(w_vd)?,
        targets_t: below(op, "a target", targets_t, -1, v)?,
    })
}

fn heads(team: &Team, room: &mut Room, op: Op<'_>) -> Result<()> {
    match op {
        Op::Rope { x_thc, positions_t, rotary_width, theta, back } => {
            let &[_, heads, head_width] = x_thc.shape() else { return Ok(()) };
            let shape = Rotated { heads, head_width, rotary_width, theta, back };
            rope(team, shape, floats_mut(x_thc)?, view(positions_t), &mut room.rope);
        }
        Op::Attention { q_thc, k_sgc, v_sgc, starts_t, scale, out_thc, lse_th } => {
            let given = attention_of([q_thc, k_sgc, v_sgc], starts_t, scale)?;
            attention(team, given, floats_mut(out_thc)?, floats_mut(lse_th)?);
        }
        Op::AttentionGrad {
            d_out_thc,
            q_thc,
            k_sgc,
            v_sgc,
            starts_t,
            scale,
            out_thc,
            lse_th,
            d_q_thc,
            d_k_sgc,
            d_v_sgc,
        } => {
            let given = attention_of([q_thc, k_sgc, v_sgc], starts_t, scale)?;
            let saved =
                Saved { d_out_thc: floats(d_out_thc)?, out_thc: floats(out_thc)?, lse_th: floats(lse_th)? };
            let gradients = [floats_mut(d_q_thc)?, floats_mut(d_k_sgc)?, floats_mut(d_v_sgc)?];
            attention_grad(team, given, saved, gradients, &mut room.indices);
        }
        _ => unreachable!("another family's op"),
    }
    Ok(())
}

/// The operands, with the starts checked: each query sees at least itself.
fn attention_of<'a>([q, k, v]: [&'a Tensor; 3], starts_t: &'a Tensor, scale: f64) -> Result<Attention<'a>> {
    let (tokens, keys) = (q.shape()[0], k.shape()[0]);
    let starts = view::<i32>(starts_t);
    for (t, &start) in starts.iter().enumerate() {
        let own = keys - tokens + t;
        if start < 0 || start as usize > own {
            return Err(Error::Value {
                op: "attention",
                what: "a start",
                found: format!("{start} for query {t}"),
                wanted: format!("0 to {own}"),
            });
        }
    }
    Ok(Attention {
        q_thc: floats(q)?,
        k_sgc: floats(k)?,
        v_sgc: floats(v)?,
        starts_t: starts,
        scale: scale as f32,
        heads: q.shape()[1],
        kv_heads: k.shape()[1],
        width: q.shape()[2],
    })
}

fn rows(team: &Team, room: &mut Room, op: Op<'_>) -> Result<()> {
    match op {
        Op::RmsNorm { x, scale_d, epsilon, out } => {
            rms_norm(team, floats(x)?, floats(scale_d)?, epsilon as f32, floats_mut(out)?);
        }
        Op::RmsNormGrad { d_out, x, scale_d, epsilon, d_x, d_scale_d, add } => {
            let (d_out, x, scale_d) = (floats(d_out)?, floats(x)?, floats(scale_d)?);
            let given = NormGrad { d_out, x, scale_d, epsilon: epsilon as f32, add };
            rms_norm_grad(team, given, floats_mut(d_x)?, floats_mut(d_scale_d)?, &mut room.floats);
        }
        Op::Swiglu { gate_up, weights_r, out_rf } => {
            let f = out_rf.rows_and_width().1;
            swiglu(team, f, floats(gate_up)?, weights_r.map(floats).transpose()?, floats_mut(out_rf)?);
        }
        Op::SwigluGrad { gate_up, weights_r, d_out_rf, d_gate_up, d_weights_r } => {
            let given = Gated {
                f: d_out_rf.rows_and_width().1,
                gate_up: floats(gate_up)?,
                weights_r: weights_r.map(floats).transpose()?,
                d_out_rf: floats(d_out_rf)?,
            };
            swiglu_grad(team, given, floats_mut(d_gate_up)?, d_weights_r.map(floats_mut).transpose()?);
        }
        Op::ColumnScales { w_vd, out_d } => {
            norm_head::column_scales(team, floats(w_vd)?, floats_mut(out_d)?);
        }
        Op::ScaleColumns { x_td, scales_d, out_td } => {
            norm_head::scale_columns(team, floats(x_td)?, floats(scales_d)?, floats_mut(out_td)?);
        }
        _ => unreachable!("another family's op"),
    }
    Ok(())
}

fn routing(team: &Team, room: &mut Room, op: Op<'_>) -> Result<()> {
    match op {
        Op::Route { logits_te, bias_e, rule, experts_tk, weights_tk, counts_ge, loads_e, losses_2 } => {
            let routed = Routed {
                experts_tk: view_mut(experts_tk),
                weights_tk: floats_mut(weights_tk)?,
                counts_ge: view_mut(counts_ge),
                loads_e: view_mut(loads_e),
                losses_2: floats_mut(losses_2)?,
            };
            let e = logits_te.rows_and_width().1;
            let bias = bias_e.map(floats).transpose()?;
            route(team, e, floats(logits_te)?, bias, rule, routed, &mut room.doubles);
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
            let e = logits_te.rows_and_width().1;
            let given = RouteGrad {
                e,
                logits_te: floats(logits_te)?,
                experts_tk: below("route_grad", "an expert", experts_tk, 0, e)?,
                counts_ge: view(counts_ge),
                d_weights_tk: floats(d_weights_tk)?,
                rule,
                balance_scale,
                z_scale,
                keep,
            };
            route_grad(team, given, floats_mut(d_logits_te)?);
        }
        Op::WarmLogits { logits_te, noise_te, keep, mean, deviation } => {
            warm_logits(team, floats_mut(logits_te)?, floats(noise_te)?, [keep, mean, deviation]);
        }
        Op::SortByExpert { experts_tk, ends_e, order_r, places_tk } => {
            let experts = below("sort_by_expert", "an expert", experts_tk, 0, ends_e.len())?;
            sort_by_expert::sort_by_expert(experts, view_mut(ends_e), view_mut(order_r), view_mut(places_tk));
        }
        Op::Dispatch { x_td, order_r, choices, out_rd } => {
            let (tokens, d) = x_td.rows_and_width();
            let order = below("dispatch", "a choice", order_r, 0, tokens * choices)?;
            dispatch::dispatch(team, d, floats(x_td)?, order, choices, floats_mut(out_rd)?);
        }
        Op::Combine { x_rd, places_tk, out_td, add } => {
            let (rows, d) = x_rd.rows_and_width();
            let places = below("combine", "a place", places_tk, 0, rows)?;
            combine::combine(team, d, floats(x_rd)?, places, floats_mut(out_td)?, add);
        }
        Op::BalanceBias { loads_e, bias_e, rate } => {
            balance_bias::balance_bias(view(loads_e), floats_mut(bias_e)?, rate);
        }
        _ => unreachable!("another family's op"),
    }
    Ok(())
}

fn elements(team: &Team, room: &mut Room, op: Op<'_>) -> Result<()> {
    match op {
        Op::AdamW { parameter, gradient, first, second, squares_1, rule } => {
            let moments = [floats_mut(first)?, floats_mut(second)?];
            let squares = floats(squares_1)?[0];
            adamw::adamw(team, floats_mut(parameter)?, floats(gradient)?, moments, squares, rule);
        }
        Op::SumOfSquares { x, out_1 } => {
            let [_, squares] = sums::sums(team, floats(x)?, &mut room.doubles);
            add_sum(&mut floats_mut(out_1)?[0], squares);
        }
        Op::Moments { x, out_2 } => {
            let sums = sums::sums(team, floats(x)?, &mut room.doubles);
            floats_mut(out_2)?.iter_mut().zip(sums).for_each(|(out, sum)| add_sum(out, sum));
        }
        Op::Add { x, out } => elementwise::add(team, floats(x)?, floats_mut(out)?),
        _ => unreachable!("another family's op"),
    }
    Ok(())
}

fn add_sum(out: &mut f32, sum: f64) {
    *out = (f64::from(*out) + sum) as f32;
}

fn copy(team: &Team, x: &Tensor, out: &Tensor) -> Result<()> {
    match (x.kind(), out.kind()) {
        (Kind::F32, Kind::F32) => elementwise::copy(team, view::<f32>(x), view_mut::<f32>(out), |x| x),
        (Kind::F64, Kind::F64) => elementwise::copy(team, view::<f64>(x), view_mut::<f64>(out), |x| x),
        (Kind::I32, Kind::I32) => elementwise::copy(team, view::<i32>(x), view_mut::<i32>(out), |x| x),
        (Kind::F32, Kind::F64) => elementwise::copy(team, view::<f32>(x), view_mut::<f64>(out), f64::from),
        (Kind::F64, Kind::F32) => elementwise::copy(team, view::<f64>(x), view_mut::<f32>(out), |x| x as f32),
        (found, wanted) => {
            return Err(Error::Kind { op: "copy", tensor: "x", found: found.name(), wanted: wanted.name() });
        }
    }
    Ok(())
}

fn floats(tensor: &Tensor) -> Result<&[f32]> {
    f32_only(tensor)?;
    Ok(view(tensor))
}

fn floats_mut(tensor: &Tensor) -> Result<&mut [f32]> {
    f32_only(tensor)?;
    Ok(view_mut(tensor))
}

fn f32_only(tensor: &Tensor) -> Result<()> {
    if tensor.kind() == Kind::F32 {
        return Ok(());
    }
    Err(Error::Unsupported {
        device: "cpu".into(),
        what: format!("computes in f32, not in {}", tensor.kind().name()),
        hint: "the `reference` device computes in f64".into(),
    })
}

/// Whole numbers, checked to lie in `least..limit`.
fn below<'a>(
    op: &'static str,
    what: &'static str,
    tensor: &'a Tensor,
    least: i32,
    limit: usize,
) -> Result<&'a [i32]> {
    let values = view::<i32>(tensor);
    match values.iter().find(|&&value| value < least || i64::from(value) >= limit as i64) {
        None => Ok(values),
        Some(value) => Err(Error::Value {
            op,
            what,
            found: value.to_string(),
            wanted: format!("from {least} to {}", limit as i64 - 1),
        }),
    }
}
