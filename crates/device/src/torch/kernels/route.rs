//! Launches of `kernels/route.cu` and `kernels/route_grad.cu`.

use super::super::refusal::Refusal;
use super::call::{Call, of_kind, warp_per_row};
use crate::kernels::Argument;
use crate::op::{Route, RouteGrad, RouteRule};
use crate::tensor::Tensor;
use lingot_spec::Score;

/// The most experts: each lane of a warp marks its own in one word.
const MOST_EXPERTS: usize = 1024;

/// The most groups to choose from: a bit each.
const MOST_GROUPS: usize = 32;

/// The most blocks that sum losses: the last kernel is one block, which adds up what each of them found.
const MOST_PARTS: usize = 1024;

/// Whether there are few enough experts and groups for the kernels.
pub(super) fn takes(logits_te: &Tensor, rule: RouteRule) -> bool {
    let [tokens, experts] = logits_te.dims();
    let takes_groups = rule.groups_kept == rule.groups || rule.groups <= MOST_GROUPS;
    experts <= MOST_EXPERTS && takes_groups && i32::try_from(tokens * rule.choices).is_ok()
}

/// Four launches: counts begin as zeros; then the choices, the parts of the losses, and their sums.
pub(super) fn route(call: &Call<'_>, op: &Route<'_>) -> Result<(), Refusal> {
    let Route { logits_te, bias_e, rule, experts_tk, weights_tk, counts_ge, loads_e, losses_2 } = *op;
    let [tokens, experts] = logits_te.dims();
    let torch = call.torch;
    torch.bits(counts_ge)?.fill(0.0)?;
    let (logits, counts) = (call.tensor(logits_te)?, call.tensor(counts_ge)?);
    let arguments = [
        logits,
        call.optional(bias_e)?,
        call.tensor(experts_tk)?,
        call.tensor(weights_tk)?,
        counts,
        call.tensor(loads_e)?,
        tokens.into(),
        experts.into(),
        is_sigmoid(rule),
        rule.choices.into(),
        rule.groups.into(),
        rule.groups_kept.into(),
        rule.renormalise.into(),
        rule.scope_tokens.into(),
        rule.scale.into(),
    ];
    call.launch("route_choose", warp_per_row(tokens), &arguments)?;
    let blocks = warp_per_row(tokens).min(MOST_PARTS);
    let parts = torch.empty(&[2, blocks as i64], torch.torch.dtypes.f32)?;
    let partials = call.value(&parts)?;
    let arguments = [
        logits,
        counts,
        partials,
        tokens.into(),
        experts.into(),
        is_sigmoid(rule),
        rule.scope_tokens.into(),
        pull(rule, experts).into(),
    ];
    call.launch("route_losses", blocks, &arguments)?;
    call.launch("route_sum", 1, &[partials, call.tensor(losses_2)?, blocks.into()])
}

/// One launch.
pub(super) fn grad(call: &Call<'_>, op: &RouteGrad<'_>) -> Result<(), Refusal> {
    let RouteGrad { logits_te, experts_tk, counts_ge, d_weights_tk, d_logits_te, rule, .. } = *op;
    let [tokens, experts] = logits_te.dims();
    let arguments = [
        call.tensor(logits_te)?,
        call.tensor(experts_tk)?,
        call.tensor(counts_ge)?,
        call.tensor(d_weights_tk)?,
        call.tensor(d_logits_te)?,
        tokens.into(),
        experts.into(),
        is_sigmoid(rule),
        rule.choices.into(),
        rule.renormalise.into(),
        rule.scope_tokens.into(),
        rule.scale.into(),
        (op.balance_scale * pull(rule, experts)).into(),
        op.z_scale.into(),
        op.keep.into(),
    ];
    call.launch(of_kind!(d_logits_te.kind(), "route_grad"), warp_per_row(tokens), &arguments)
}

fn is_sigmoid(rule: RouteRule) -> Argument {
    (rule.score == Score::Sigmoid).into()
}

/// What one choice of an expert adds to the balance loss per share of a token: `E / (K n^2)`.
fn pull(rule: RouteRule, experts: usize) -> f64 {
    let n = rule.scope_tokens as f64;
    experts as f64 / (rule.choices as f64 * n * n)
}
