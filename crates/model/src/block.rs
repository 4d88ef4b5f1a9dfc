//! One layer: attention, then a feed-forward network, each behind a norm and beside the residual stream.

use crate::attention::{self, AttentionSaved};
use crate::inputs::{Inputs, Totals, Warmth};
use crate::mlp::{self, DenseSaved};
use crate::moe::{self, MoeSaved};
use crate::tally::RoutedTally;
use crate::weights::{BlockWeights, MlpWeights};
use lingot_device::{Result, Tensor, ops};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;

/// What a block needs to know of its surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a ModelSpec,
    pub(crate) inputs: &'a Inputs,
    pub(crate) totals: Totals,
    pub(crate) recompute: Recompute,
    pub(crate) routed: Option<Routed<'a>>,
}

/// What a routed layer needs besides.
#[derive(Clone, Copy)]
pub(crate) struct Routed<'a> {
    /// Its number among the routed layers.
    pub(crate) index: usize,
    pub(crate) tally: &'a RoutedTally,
    pub(crate) bias_e: Option<&'a Tensor>,
    pub(crate) warmth: Option<Warmth<'a>>,
    /// Running mean and deviation of the raw logits.
    pub(crate) statistics: [f64; 2],
}

/// What a block keeps for its backward pass.
pub(crate) struct BlockSaved {
    x_td: Tensor,
    inner: Inner,
}

#[expect(clippy::large_enum_variant, reason = "there is one per layer")]
enum Inner {
    Kept {
        attention: AttentionSaved,
        middle_td: Tensor,
        mlp: MlpSaved,
    },
    /// Only what was decided; the rest is computed again.
    Forgotten {
        decision: Option<moe::Decision>,
    },
}

#[expect(clippy::large_enum_variant, reason = "there is one per layer")]
enum MlpSaved {
    Dense(DenseSaved),
    Moe(MoeSaved),
}

/// `x + attention(x)`, then `x + mlp(x)`.
pub(crate) fn forward(pass: &Pass<'_>, weights: &BlockWeights, x_td: Tensor) -> Result<(Tensor, BlockSaved)> {
    let (out_td, inner) = run(pass, weights, &x_td, None)?;
    let inner = match (pass.recompute, inner) {
        (Recompute::Block, Inner::Kept { mlp, .. }) => Inner::Forgotten {
            decision: match mlp {
                MlpSaved::Moe(saved) => Some(saved.decision),
                MlpSaved::Dense(_) => None,
            },
        },
        (_, inner) => inner,
    };
    Ok((out_td, BlockSaved { x_td, inner }))
}

/// The same, read upward: turns the gradient of the output into that of the input, in place where it can.
pub(crate) fn backward(
    pass: &Pass<'_>,
    weights: &BlockWeights,
    grads: &BlockWeights,
    saved: BlockSaved,
    d_td: Tensor,
) -> Result<Tensor> {
    let BlockSaved { x_td, inner } = saved;
    let (attention, middle_td, mlp) = match inner {
        Inner::Kept { attention, middle_td, mlp } => (attention, middle_td, mlp),
        Inner::Forgotten { decision } => match run(pass, weights, &x_td, decision)?.1 {
            Inner::Kept { attention, middle_td, mlp } => (attention, middle_td, mlp),
            Inner::Forgotten { .. } => unreachable!("a run keeps everything"),
        },
    };
    let epsilon = pass.model.norm_epsilon;
    let h_td = ops::rms_norm(&middle_td, &weights.mlp_norm, epsilon)?;
    let d_h_td = match (&weights.mlp, &grads.mlp, mlp) {
        (MlpWeights::Dense(weights), MlpWeights::Dense(grads), MlpSaved::Dense(saved)) => {
            mlp::backward(weights, grads, &h_td, &saved, &d_td)?
        }
        (MlpWeights::Moe(weights), MlpWeights::Moe(grads), MlpSaved::Moe(saved)) => {
            moe::backward(pass, weights, grads, &h_td, saved, &d_td)?
        }
        _ => unreachable!("weights, gradients and activations are of one layer"),
    };
    drop(h_td);
    ops::rms_norm_grad(&d_h_td, &middle_td, &weights.mlp_norm, epsilon, Some(&d_td), &grads.mlp_norm)?;
    drop((d_h_td, middle_td));
    attention::backward(pass, &weights.attention, &grads.attention, &x_td, attention, &d_td)?;
    Ok(d_td)
}

/// Forward, with the routing decided now or, when it is done again, then.
fn run(
    pass: &Pass<'_>,
    weights: &BlockWeights,
    x_td: &Tensor,
    decided: Option<moe::Decision>,
) -> Result<(Tensor, Inner)> {
    let (middle_td, attention) = attention::forward(pass, &weights.attention, x_td)?;
    let h_td = ops::rms_norm(&middle_td, &weights.mlp_norm, pass.model.norm_epsilon)?;
    let (out_td, mlp) = match &weights.mlp {
        MlpWeights::Dense(weights) => {
            let (out_td, saved) = mlp::forward(weights, &h_td)?;
            (out_td, MlpSaved::Dense(saved))
        }
        MlpWeights::Moe(weights) => {
            let (out_td, saved) = moe::forward(pass, weights, &h_td, decided)?;
            (out_td, MlpSaved::Moe(saved))
        }
    };
    ops::add(&out_td, &middle_td)?;
    Ok((out_td, Inner::Kept { attention, middle_td, mlp }))
}
