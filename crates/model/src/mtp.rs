//! Multi-token prediction: one more layer sees the next token and predicts the one after (Ling 2.0; DeepSeek-V3,
//! arXiv 2412.19437, section 2.2). It shares the embedding and the head.

use crate::block::{self, Pass};
use crate::head::Head;
use crate::weights::Weights;
use lingot_device::{Flip, Result, Tensor, ops};

/// Forward and backward at once: adds to the tally and to the gradients, and to `d_hidden`, the gradient by the
/// trunk's last hidden state.
pub(crate) fn differentiate(
    pass: &Pass<'_>,
    weights: &Weights,
    grads: &Weights,
    hidden_td: &Tensor,
    tally_2: &Tensor,
    d_hidden_td: &Tensor,
) -> Result<()> {
    let (Some(mtp), Some(d_mtp), Some([next_t, targets_t])) = (&weights.mtp, &grads.mtp, &pass.inputs.next)
    else {
        return Ok(());
    };
    let epsilon = pass.model.norm_epsilon;
    let tokens_td = ops::embedding(&weights.embedding, next_t)?;
    let token_td = ops::rms_norm(&tokens_td, &mtp.token_norm, epsilon)?;
    // As published Ling v2 models read it: the trunk's state after the final norm.
    let final_td = ops::rms_norm(hidden_td, &weights.final_norm, epsilon)?;
    let normed_td = ops::rms_norm(&final_td, &mtp.hidden_norm, epsilon)?;
    let joined_td = ops::matmul(&token_td, &mtp.token_projection, Flip::B)?;
    ops::matmul_onto(&joined_td, &normed_td, &mtp.hidden_projection, Flip::B)?;
    let (out_td, saved) = block::forward(pass, &mtp.block, joined_td)?;

    let head = |norm_d, weight_vd| Head { model: pass.model, norm_d, weight_vd };
    let scale = pass.model.mtp_weight / (pass.totals.mtp_targets as f64).max(1.0);
    let d_out_td = head(&mtp.final_norm, &weights.head).differentiate(
        &head(&d_mtp.final_norm, &grads.head),
        &out_td,
        targets_t,
        scale,
        tally_2,
    )?;
    drop(out_td);

    let d_joined_td = block::backward(pass, &mtp.block, &d_mtp.block, saved, d_out_td)?;
    ops::matmul_onto(&d_mtp.token_projection, &d_joined_td, &token_td, Flip::A)?;
    ops::matmul_onto(&d_mtp.hidden_projection, &d_joined_td, &normed_td, Flip::A)?;
    let d_token_td = ops::matmul(&d_joined_td, &mtp.token_projection, Flip::NONE)?;
    let d_normed_td = ops::matmul(&d_joined_td, &mtp.hidden_projection, Flip::NONE)?;
    let d_tokens_td =
        ops::rms_norm_grad(&d_token_td, &tokens_td, &mtp.token_norm, epsilon, None, &d_mtp.token_norm)?;
    ops::embedding_grad(&d_tokens_td, next_t, &grads.embedding)?;
    let d_final_td =
        ops::rms_norm_grad(&d_normed_td, &final_td, &mtp.hidden_norm, epsilon, None, &d_mtp.hidden_norm)?;
    ops::rms_norm_grad(
        &d_final_td,
        hidden_td,
        &weights.final_norm,
        epsilon,
        Some(d_hidden_td),
        &grads.final_norm,
    )?;
    Ok(())
}
