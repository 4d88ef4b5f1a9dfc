//! Causal attention with grouped heads, within documents (FlashAttention: Dao et al., arXiv 2205.14135).

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// What attention gives, and keeps for its gradient.
pub struct Attended {
    pub out_thc: Tensor,
    /// The logarithm of each softmax's denominator.
    pub lse_th: Tensor,
}

/// The T queries are the last T of the S keys; query t sees the keys `starts[t] ..= S - T + t`.
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
    let lse_th = door.empty(&[t, h])?;
    q_thc.device().run(Op::Attention {
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

/// The gradients by q, k and v, where queries and keys are the same tokens.
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
    door.floats("k", k_sgc, &[t, k_sgc.shape()[1], c])?;
    door.floats("d_out", d_out_thc, &[t, h, c])?;
    door.floats("out", out_thc, &[t, h, c])?;
    door.floats("lse", lse_th, &[t, h])?;
    let [d_q, d_k, d_v] =
        [door.empty(q_thc.shape())?, door.empty(k_sgc.shape())?, door.empty(v_sgc.shape())?];
    q_thc.device().run(Op::AttentionGrad {
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
    door.floats("k", k, &[s, g, c])?;
    door.floats("v", v, &[s, g, c])?;
    door.integers("starts", starts, &[t])?;
    door.require(s >= t, "the number of keys", s, format!("at least the number of queries, {t}"))?;
    door.require(
        g > 0 && h.is_multiple_of(g),
        "the number of heads",
        h,
        format!("a multiple of the {g} kv heads"),
    )?;
    Ok([t, h, c])
}
