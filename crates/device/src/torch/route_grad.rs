//! The gradient of routing by the logits.

use super::Torch;
use super::aten::Dtype;
use super::refusal::Refusal;
use super::route::{Router, chosen};
use super::sums::log_sum_exp;
use super::value::Value;
use crate::op::RouteGrad;
use crate::tensor::Tensor;
use lingot_spec::Score;

pub(super) fn route_grad(torch: &Torch, op: &RouteGrad<'_>) -> Result<(), Refusal> {
    let RouteGrad { logits_te, rule, balance_scale, z_scale, .. } = *op;
    let aten = torch.aten();
    let router = Router::of(torch, logits_te, rule);
    let logits = torch.floats(logits_te)?;
    let scores = router.scores(&logits)?;
    let d_scores = by_weights(&router, &scores, op.experts_tk, op.d_weights_tk)?;
    if balance_scale != 0.0 {
        let counts = torch.indices(op.counts_ge, &[router.scopes, router.experts])?;
        let counts = torch.converted(&counts, &[router.scopes, router.experts], torch.torch.dtypes.f32)?;
        torch.accumulate(&d_scores, &by_balance(&router, &scores, &counts, balance_scale)?)?;
    }
    let d_logits = match rule.score {
        Score::Softmax => aten.softmax_backward(&d_scores, &scores, 1, Dtype(torch.torch.dtypes.f32))?,
        Score::Sigmoid => aten.sigmoid_backward(&d_scores, &scores)?,
    };
    if z_scale != 0.0 {
        let twice = aten.mul(&log_sum_exp(torch, &logits, 1)?, &torch.scalar(2.0 * z_scale)?)?;
        torch.accumulate(&d_logits, &aten.mul(&aten.softmax(&logits, 1, false)?, &twice)?)?;
    }
    aten.mul_out(&d_logits, &torch.scalar(op.keep)?, &torch.floats(op.d_logits_te)?)?;
    Ok(())
}

/// `d_s_k = scale / N (d_w_k - sum over j of d_w_j s_j / N)` if renormalised, else `scale d_w_k`; 0 for the
/// others.
fn by_weights(
    router: &Router<'_>,
    scores: &Value,
    experts_tk: &Tensor,
    d_weights_tk: &Tensor,
) -> Result<Value, Refusal> {
    let (torch, aten) = (router.torch, router.torch.aten());
    let experts = chosen(torch, experts_tk)?;
    let d_weights = torch.floats(d_weights_tk)?;
    let (_, shares, sum) = router.weigh(scores, &experts)?;
    let mut d_chosen = aten.mul(&d_weights, &torch.scalar(router.rule.scale)?)?;
    if let Some(sum) = sum {
        let mean = aten.sum(&aten.mul(&d_chosen, &shares)?, Some(&[1]), true, None)?;
        d_chosen = aten.div(&d_chosen.minus(&mean, 1.0)?, &sum)?;
    }
    let d_scores = torch.full(&[router.tokens, router.experts], torch.torch.dtypes.f32, 0.0)?;
    aten.scatter_(&d_scores, 1, &experts, &d_chosen)
}

/// The gradient of the balance loss: the pulls, and through the shares if scores are not shares already.
fn by_balance(
    router: &Router<'_>,
    scores: &Value,
    counts: &Value,
    balance_scale: f64,
) -> Result<Value, Refusal> {
    let (torch, aten) = (router.torch, router.torch.aten());
    let pulls = aten.mul_(&router.pulls(counts)?, &torch.scalar(balance_scale)?)?;
    let pulls = pulls.shaped(&[router.scopes, 1, router.experts], 0)?;
    let all = [router.tokens, router.experts];
    let zeros = torch.full(&all, torch.torch.dtypes.f32, 0.0)?;
    let pulls = router.by_scope(&zeros)?.plus(&pulls)?.shaped(&all, 0)?;
    if router.rule.score == Score::Softmax {
        return Ok(pulls);
    }
    let sum = aten.sum(scores, Some(&[1]), true, None)?;
    let along = aten.div(&aten.sum(&aten.mul(scores, &pulls)?, Some(&[1]), true, None)?, &sum)?;
    aten.div(&pulls.minus(&along, 1.0)?, &sum)
}
