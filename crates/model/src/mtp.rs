//! Multi-token prediction: one more layer sees the next token and predicts the one after (Ling 2.0;
//! DeepSeek-V3, arXiv 2412.19437, section 2.2). It shares the embedding, the final norm and the head.

use crate::block;
use crate::context::Context;
use crate::gradients::Gradients;
use crate::head::{self, Objective};
use crate::seam::{Gated, Pass, Seam};
use crate::weights::{MtpWeights, Weights};
use lingot_device::{Error, Flip, Result, Tensor, ops};

/// Forward and backward of the layer `mtp`: adds its losses to the tally, its gradients to `gradients`, and
/// the gradient by the last layer's output, `hidden` `[T, D]`, to `d_hidden`. Errors if the inputs have no
/// next tokens.
pub(crate) fn differentiate(
    seam: &dyn Seam,
    context: &Context<'_>,
    weights: &Weights,
    mtp: &Gated<MtpWeights>,
    gradients: &Gradients,
    hidden_td: &Tensor,
    d_hidden_td: &Tensor,
) -> Result<()> {
    let Some([next_t, targets_t]) = &context.inputs.next else { return Err(no_next_tokens()) };
    let epsilon = context.model.norm_epsilon;
    let tokens_td = ops::embedding(weights.embedding.arrive(seam, Pass::Forward)?, next_t)?;
    // As published Ling v2 models read it: the trunk's state after the final norm.
    let final_td = ops::rms_norm(hidden_td, weights.final_norm.arrive(seam, Pass::Forward)?, epsilon)?;
    let layer = mtp.arrive(seam, Pass::Forward)?;
    let token_td = ops::rms_norm(&tokens_td, &layer.token_norm, epsilon)?;
    let normed_td = ops::rms_norm(&final_td, &layer.hidden_norm, epsilon)?;
    let joined_td = ops::matmul(&token_td, &layer.token_projection, Flip::B)?;
    ops::matmul_onto(&joined_td, &normed_td, &layer.hidden_projection, Flip::B)?;
    let (out_td, saved) = block::forward(context, &layer.block, joined_td)?;

    let features_td = ops::rms_norm(&out_td, &layer.final_norm, epsilon)?;
    let scale = context.model.mtp_weight / (context.totals.mtp_targets as f64).max(1.0);
    let objective = Objective { targets_t, scale, tally_2: &context.tally.mtp_2, is_second: true };
    let head_vd = weights.head.arrive(seam, Pass::Backward)?;
    let d_features_td = head::differentiate(context.model, head_vd, gradients, features_td, &objective)?;

    let layer = mtp.arrive(seam, Pass::Backward)?;
    let d_norm_d = gradients.of(&layer.final_norm);
    let d_joined_td =
        ops::rms_norm_grad(&d_features_td, &out_td, &layer.final_norm, epsilon, None, d_norm_d)?;
    drop((d_features_td, out_td));
    block::backward(context, saved, gradients, &d_joined_td)?;
    gradients.add_product(&layer.token_projection, &d_joined_td, &token_td)?;
    gradients.add_product(&layer.hidden_projection, &d_joined_td, &normed_td)?;
    let d_token_td = ops::matmul(&d_joined_td, &layer.token_projection, Flip::NONE)?;
    let d_normed_td = ops::matmul(&d_joined_td, &layer.hidden_projection, Flip::NONE)?;
    let d_norm_d = gradients.of(&layer.token_norm);
    let d_tokens_td =
        ops::rms_norm_grad(&d_token_td, &tokens_td, &layer.token_norm, epsilon, None, d_norm_d)?;
    let d_norm_d = gradients.of(&layer.hidden_norm);
    let d_final_td =
        ops::rms_norm_grad(&d_normed_td, &final_td, &layer.hidden_norm, epsilon, None, d_norm_d)?;
    mtp.leave(seam)?;

    let table_vd = weights.embedding.arrive(seam, Pass::Gradient)?;
    ops::embedding_grad(&d_tokens_td, next_t, gradients.of(table_vd))?;
    let norm_d = weights.final_norm.arrive(seam, Pass::Backward)?;
    let d_norm_d = gradients.of(norm_d);
    ops::rms_norm_grad(&d_final_td, hidden_td, norm_d, epsilon, Some(d_hidden_td), d_norm_d)?;
    Ok(())
}

fn no_next_tokens() -> Error {
    Error::Value {
        op: "multi-token prediction",
        what: "the next token of each token",
        found: "missing from the inputs".into(),
        wanted: "there: build the inputs with `mtp`".into(),
    }
}
