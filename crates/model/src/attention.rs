//! Grouped-query attention behind a norm, onto the residual stream.

use crate::context::Context;
use crate::gradients::Gradients;
use crate::weights::AttentionWeights;
use lingot_device::ops::{Attended, Rotation};
use lingot_device::{Flip, Result, Tensor, ops};
use lingot_spec::ModelSpec;

/// What the backward pass reads. Without head norms q and k are as attention saw them; with head norms as
/// they were before, which the norms' gradients need.
pub(crate) struct AttentionSaved {
    q_thc: Tensor,
    k_tgc: Tensor,
    v_tgc: Tensor,
    attended: Attended,
}

/// Query `[T, H, C]`, key and value `[T, G, C]` of the tokens.
pub(crate) struct Projected {
    pub(crate) q_thc: Tensor,
    pub(crate) k_tgc: Tensor,
    pub(crate) v_tgc: Tensor,
}

/// Returns `x + output(attend(norm x))`, `[T, D]`, and what the backward pass needs.
pub(crate) fn forward(
    context: &Context<'_>,
    weights: &AttentionWeights,
    x_td: &Tensor,
) -> Result<(Tensor, AttentionSaved)> {
    let model = context.model;
    let raw = project(model, weights, x_td)?;
    let Projected { q_thc, k_tgc, v_tgc } = position(model, weights, &raw, &context.inputs.positions_t)?;
    let attended = ops::attention(&q_thc, &k_tgc, &v_tgc, &context.inputs.starts_t, scale(model))?;
    let out_td = output(model, weights, &attended.out_thc)?;
    ops::add(&out_td, x_td)?;
    let saved = match weights.head_norms {
        Some(_) => AttentionSaved { q_thc: raw.q_thc, k_tgc: raw.k_tgc, v_tgc, attended },
        None => AttentionSaved { q_thc, k_tgc, v_tgc, attended },
    };
    Ok((out_td, saved))
}

/// Adds the gradient by x to `d` `[T, D]`, which holds that of the residual stream, and those of the weights
/// to `gradients`.
pub(crate) fn backward(
    context: &Context<'_>,
    weights: &AttentionWeights,
    gradients: &Gradients,
    x_td: &Tensor,
    saved: AttentionSaved,
    d_td: &Tensor,
) -> Result<()> {
    let model = context.model;
    let AttentionSaved { q_thc: q_saved, k_tgc: k_saved, v_tgc, attended } = saved;
    let [t, h, c] = [q_saved.shape()[0], q_saved.shape()[1], q_saved.shape()[2]];
    let joined = attended.out_thc.reshape(&[t, h * c]);
    gradients.add_product(&weights.output, d_td, &joined)?;
    let d_out_thc = ops::matmul(d_td, &weights.output, Flip::NONE)?.reshape(&[t, h, c]);

    let positions_t = &context.inputs.positions_t;
    let seen = match weights.head_norms {
        Some(_) => {
            let raw = Projected { q_thc: q_saved.clone(), k_tgc: k_saved.clone(), v_tgc: v_tgc.clone() };
            position(model, weights, &raw, positions_t)?
        }
        None => Projected { q_thc: q_saved.clone(), k_tgc: k_saved.clone(), v_tgc },
    };
    let operands = [&seen.q_thc, &seen.k_tgc, &seen.v_tgc];
    let [mut d_q, mut d_k, d_v] =
        ops::attention_grad(&d_out_thc, operands, &context.inputs.starts_t, scale(model), &attended)?;
    drop((seen, attended, d_out_thc));
    ops::rope(&d_q, positions_t, rotation(model), true)?;
    ops::rope(&d_k, positions_t, rotation(model), true)?;
    if let Some([q_norm, k_norm]) = &weights.head_norms {
        d_q = ops::rms_norm_grad(&d_q, &q_saved, q_norm, model.norm_epsilon, None, gradients.of(q_norm))?;
        d_k = ops::rms_norm_grad(&d_k, &k_saved, k_norm, model.norm_epsilon, None, gradients.of(k_norm))?;
    }
    drop((q_saved, k_saved));

    let h_td = ops::rms_norm(x_td, &weights.norm, model.norm_epsilon)?;
    let flat = |d: &Tensor| d.reshape(&[t, d.len() / t]);
    let [d_q, d_k, d_v] = [flat(&d_q), flat(&d_k), flat(&d_v)];
    gradients.add_product(&weights.query, &d_q, &h_td)?;
    gradients.add_product(&weights.key, &d_k, &h_td)?;
    gradients.add_product(&weights.value, &d_v, &h_td)?;
    let d_h_td = ops::matmul(&d_q, &weights.query, Flip::NONE)?;
    ops::matmul_onto(&d_h_td, &d_k, &weights.key, Flip::NONE)?;
    ops::matmul_onto(&d_h_td, &d_v, &weights.value, Flip::NONE)?;
    let d_norm_d = gradients.of(&weights.norm);
    ops::rms_norm_grad(&d_h_td, x_td, &weights.norm, model.norm_epsilon, Some(d_td), d_norm_d)?;
    Ok(())
}

/// Projects the normed input to query, key and value, not yet rotated by position.
pub(crate) fn project(model: &ModelSpec, weights: &AttentionWeights, x_td: &Tensor) -> Result<Projected> {
    let [h, g, c] = [model.heads, model.kv_heads, model.head_width].map(|n| n as usize);
    let t = x_td.shape()[0];
    let h_td = ops::rms_norm(x_td, &weights.norm, model.norm_epsilon)?;
    Ok(Projected {
        q_thc: ops::matmul(&h_td, &weights.query, Flip::B)?.reshape(&[t, h, c]),
        k_tgc: ops::matmul(&h_td, &weights.key, Flip::B)?.reshape(&[t, g, c]),
        v_tgc: ops::matmul(&h_td, &weights.value, Flip::B)?.reshape(&[t, g, c]),
    })
}

/// Applies head norms where the model has them, then the rotation by position (in place where there are no
/// norms).
pub(crate) fn position(
    model: &ModelSpec,
    weights: &AttentionWeights,
    raw: &Projected,
    positions_t: &Tensor,
) -> Result<Projected> {
    let [q_thc, k_tgc] = match &weights.head_norms {
        Some([q_norm, k_norm]) => [
            ops::rms_norm(&raw.q_thc, q_norm, model.norm_epsilon)?,
            ops::rms_norm(&raw.k_tgc, k_norm, model.norm_epsilon)?,
        ],
        None => [raw.q_thc.clone(), raw.k_tgc.clone()],
    };
    ops::rope(&q_thc, positions_t, rotation(model), false)?;
    ops::rope(&k_tgc, positions_t, rotation(model), false)?;
    Ok(Projected { q_thc, k_tgc, v_tgc: raw.v_tgc.clone() })
}

/// Projects what attention gave, `[T, H, C]`, to the residual stream, `[T, D]`.
pub(crate) fn output(model: &ModelSpec, weights: &AttentionWeights, out_thc: &Tensor) -> Result<Tensor> {
    let joined = (model.heads * model.head_width) as usize;
    ops::matmul(&out_thc.reshape(&[out_thc.shape()[0], joined]), &weights.output, Flip::B)
}

/// The factor of the scores, `1 / sqrt(head width)`.
pub(crate) fn scale(model: &ModelSpec) -> f64 {
    1.0 / f64::from(model.head_width).sqrt()
}

fn rotation(model: &ModelSpec) -> Rotation {
    Rotation { width: model.rotary_width as usize, theta: model.rope_theta }
}
