//! Causal attention with grouped heads, within documents (FlashAttention: Dao et al., arXiv 2205.14135).

use super::describe::{op, widths};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::cost;

op! {
    /// Causal attention within documents. The T queries are the last T of the S keys: query t sees the keys
    /// `starts[t] ..= S - T + t`. Query head h reads kv head `h / (H / G)`. Saves
    /// `lse = log sum exp(scaled scores)`.
    Attention = "attention" {
        read q_thc, read k_sgc, read v_sgc, read starts_t: ids, write out_thc, write lse_th: sums,
    }
    {
        /// What scores are multiplied by.
        scale: f64,
    }
    cost |op| {
        let ([t, h, c], [s, g, _]) = (op.q_thc.dims(), op.k_sgc.dims());
        cost::attention([t, s, h, g, c], widths(op.q_thc))
    }
}

op! {
    /// Gradient of [`Attention`], S = T.
    AttentionGrad = "attention_grad" {
        read d_out_thc, read q_thc, read k_sgc, read v_sgc, read starts_t: ids, read out_thc,
        read lse_th: sums,
        write d_q_thc, write d_k_sgc, write d_v_sgc,
    }
    {
        /// What scores are multiplied by.
        scale: f64,
    }
    cost |op| {
        let ([t, h, c], [_, g, _]) = (op.q_thc.dims(), op.k_sgc.dims());
        cost::attention_grad([t, h, g, c], widths(op.q_thc))
    }
}

/// The results of attention, which its gradient needs too.
pub struct Attended {
    /// The output, `[T, H, C]`.
    pub out_thc: Tensor,
    /// The logarithm of each softmax's denominator, `[T, H]`.
    pub lse_th: Tensor,
}

/// Returns causal attention within documents. The T queries are the last T of the S keys; query t sees the
/// keys `starts[t] ..= S - T + t`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let q = device.floats(&[1.0, 2.0], &[1, 1, 2], Kind::F32)?;
/// let k = device.floats(&[3.0, 4.0], &[1, 1, 2], Kind::F32)?;
/// let v = device.floats(&[5.0, 6.0], &[1, 1, 2], Kind::F32)?;
/// let attended = ops::attention(&q, &k, &v, &device.integers(&[0], &[1])?, 1.0)?;
/// assert_eq!(attended.out_thc.to_floats()?, [5.0, 6.0]);
/// assert_eq!(attended.lse_th.to_floats()?, [11.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn attention(
    q_thc: &Tensor,
    k_sgc: &Tensor,
    v_sgc: &Tensor,
    starts_t: &Tensor,
    scale: f64,
) -> Result<Attended> {
    let door = Door::new("attention", q_thc)?;
    let [t, h, c] = check(&door, q_thc, k_sgc, v_sgc, starts_t)?;
    let out_thc = door.empty(&[t, h, c])?;
    let lse_th = door.empty_sums(&[t, h])?;
    q_thc.device().enqueue(Attention {
        q_thc,
        k_sgc,
        v_sgc,
        starts_t,
        scale,
        out_thc: &out_thc,
        lse_th: &lse_th,
    })?;
    Ok(Attended { out_thc, lse_th })
}

/// Returns the gradients by q, k and v, where queries and keys are the same tokens.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, 2.0], &[1, 1, 2], Kind::F32)?;
/// let starts = device.integers(&[0], &[1])?;
/// let attended = ops::attention(&x, &x, &x, &starts, 1.0)?;
/// let d_out = device.floats(&[7.0, 8.0], &[1, 1, 2], Kind::F32)?;
/// let [d_q, _, d_v] = ops::attention_grad(&d_out, [&x; 3], &starts, 1.0, &attended)?;
/// assert_eq!(d_q.to_floats()?, [0.0, 0.0]);
/// assert_eq!(d_v.to_floats()?, [7.0, 8.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn attention_grad(
    d_out_thc: &Tensor,
    [q_thc, k_sgc, v_sgc]: [&Tensor; 3],
    starts_t: &Tensor,
    scale: f64,
    attended: &Attended,
) -> Result<[Tensor; 3]> {
    let door = Door::new("attention_grad", q_thc)?;
    let [t, h, c] = check(&door, q_thc, k_sgc, v_sgc, starts_t)?;
    let Attended { out_thc, lse_th } = attended;
    door.operand("k", k_sgc, &[t, k_sgc.shape()[1], c])?;
    door.operand("d_out", d_out_thc, &[t, h, c])?;
    door.operand("out", out_thc, &[t, h, c])?;
    door.operand("lse", lse_th, &[t, h])?;
    let [d_q, d_k, d_v] =
        [door.empty(q_thc.shape())?, door.empty(k_sgc.shape())?, door.empty(v_sgc.shape())?];
    q_thc.device().enqueue(AttentionGrad {
        d_out_thc,
        q_thc,
        k_sgc,
        v_sgc,
        starts_t,
        scale,
        out_thc,
        lse_th,
        d_q_thc: &d_q,
        d_k_sgc: &d_k,
        d_v_sgc: &d_v,
    })?;
    Ok([d_q, d_k, d_v])
}

fn check(door: &Door<'_>, q: &Tensor, k: &Tensor, v: &Tensor, starts: &Tensor) -> Result<[usize; 3]> {
    let [t, h, c] = door.dims("q", q)?;
    let [s, g, _] = door.dims("k", k)?;
    door.operand("k", k, &[s, g, c])?;
    door.operand("v", v, &[s, g, c])?;
    door.operand("starts", starts, &[t])?;
    door.require(s >= t, "the number of keys", s, format!("at least the number of queries, {t}"))?;
    door.require(
        g > 0 && h.is_multiple_of(g),
        "the number of heads",
        h,
        format!("a multiple of the {g} kv heads"),
    )?;
    Ok([t, h, c])
}
