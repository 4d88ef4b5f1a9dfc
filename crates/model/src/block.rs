//! One layer: attention, then a feed-forward network, each behind a norm and added to the residual stream.

use crate::attention::{self, AttentionSaved};
use crate::context::Context;
use crate::gradients::Gradients;
use crate::mlp::{self, DenseSaved};
use crate::moe::{self, Decision, MoeSaved};
use crate::weights::{BlockWeights, MlpWeights};
use lingot_device::{Result, Tensor, ops};
use lingot_spec::run::Recompute;

/// What a block saves for its backward pass, with the weights it was computed with.
pub(crate) struct BlockSaved<'m> {
    weights: &'m BlockWeights,
    x_td: Tensor,
    inner: Inner<'m>,
}

#[expect(clippy::large_enum_variant, reason = "there is one per layer")]
enum Inner<'m> {
    Kept(Activations<'m>),
    /// Only the routing; the rest is computed again.
    Recomputed {
        decision: Option<Decision>,
    },
}

/// The intermediate results that the backward pass reads.
struct Activations<'m> {
    attention: AttentionSaved,
    /// The residual stream between the two parts, `[T, D]`.
    middle_td: Tensor,
    mlp: MlpSaved<'m>,
}

#[expect(clippy::large_enum_variant, reason = "there is one per layer")]
enum MlpSaved<'m> {
    Dense(DenseSaved<'m>),
    Moe(MoeSaved<'m>),
}

/// `y = x + attention(x)`, then `y + mlp(y)`; returns the output `[T, D]` and what the backward pass needs.
pub(crate) fn forward<'m>(
    context: &Context<'_>,
    weights: &'m BlockWeights,
    x_td: Tensor,
) -> Result<(Tensor, BlockSaved<'m>)> {
    let (out_td, activations) = run(context, weights, &x_td, None)?;
    let inner = match (context.recompute(weights.number), activations.mlp) {
        (Recompute::Block, MlpSaved::Moe(saved)) => Inner::Recomputed { decision: Some(saved.decision) },
        (Recompute::Block, MlpSaved::Dense(_)) => Inner::Recomputed { decision: None },
        (_, mlp) => Inner::Kept(Activations { mlp, ..activations }),
    };
    Ok((out_td, BlockSaved { weights, x_td, inner }))
}

/// Turns the gradient of the output, `[T, D]`, into that of the input, in place, and adds to the gradients of
/// the weights.
pub(crate) fn backward(
    context: &Context<'_>,
    saved: BlockSaved<'_>,
    gradients: &Gradients,
    d_td: &Tensor,
) -> Result<()> {
    let BlockSaved { weights, x_td, inner } = saved;
    let Activations { attention, middle_td, mlp } = match inner {
        Inner::Kept(activations) => activations,
        Inner::Recomputed { decision } => run(context, weights, &x_td, decision)?.1,
    };
    let epsilon = context.model.norm_epsilon;
    let h_td = ops::rms_norm(&middle_td, &weights.mlp_norm, epsilon)?;
    let d_h_td = match mlp {
        MlpSaved::Dense(saved) => mlp::backward(saved, gradients, &h_td, d_td)?,
        MlpSaved::Moe(saved) => moe::backward(context, saved, gradients, &h_td, d_td)?,
    };
    drop(h_td);
    let d_norm_d = gradients.of(&weights.mlp_norm);
    ops::rms_norm_grad(&d_h_td, &middle_td, &weights.mlp_norm, epsilon, Some(d_td), d_norm_d)?;
    drop((d_h_td, middle_td));
    attention::backward(context, &weights.attention, gradients, &x_td, attention, d_td)
}

/// Forward, with the routing decided now, or as it was `decided` when the layer is computed again.
fn run<'m>(
    context: &Context<'_>,
    weights: &'m BlockWeights,
    x_td: &Tensor,
    decided: Option<Decision>,
) -> Result<(Tensor, Activations<'m>)> {
    let (middle_td, attention) = attention::forward(context, &weights.attention, x_td)?;
    let h_td = ops::rms_norm(&middle_td, &weights.mlp_norm, context.model.norm_epsilon)?;
    let (out_td, mlp) = match &weights.mlp {
        MlpWeights::Dense(weights) => {
            let (out_td, saved) = mlp::forward(weights, &h_td)?;
            (out_td, MlpSaved::Dense(saved))
        }
        MlpWeights::Moe(moe) => {
            let keeps_pre_activation = context.recompute(weights.number) != Recompute::Experts;
            let (out_td, saved) = moe::forward(context, moe, &h_td, decided, keeps_pre_activation)?;
            (out_td, MlpSaved::Moe(saved))
        }
    };
    ops::add(&out_td, &middle_td)?;
    Ok((out_td, Activations { attention, middle_td, mlp }))
}
