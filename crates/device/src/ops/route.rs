//! Which experts a token visits and how much each one counts.
//!
//! Ling v1: softmax, top-k, renormalise (arXiv 2503.05139, section 2). Ling v2: sigmoid, selection bias, groups
//! (arXiv 2510.22115). Balance loss: Switch Transformer (arXiv 2101.03961, equation 4), scaled so that 1 is perfect.

use super::door::Door;
use crate::error::Result;
use crate::op::{Op, RouteRule};
use crate::tensor::Tensor;

/// What routing decides.
#[derive(Clone)]
pub struct Routing {
    /// The chosen experts, best first.
    pub experts_tk: Tensor,
    /// How much each counts.
    pub weights_tk: Tensor,
    /// How often each expert was chosen, per scope of the balance loss.
    pub counts_ge: Tensor,
}

/// Chooses. Adds each expert's load to `loads`, and both auxiliary losses to `losses`.
pub fn route(
    logits_te: &Tensor,
    bias_e: Option<&Tensor>,
    rule: RouteRule,
    loads_e: &Tensor,
    losses_2: &Tensor,
) -> Result<Routing> {
    let door = Door::new("route", logits_te)?;
    let [t, e] = check(&door, logits_te, &rule)?;
    if let Some(bias_e) = bias_e {
        door.floats("bias", bias_e, &[e])?;
    }
    door.integers("loads", loads_e, &[e])?;
    door.floats("losses", losses_2, &[2])?;
    door.apart("losses", losses_2, &[logits_te])?;
    let routing = Routing {
        experts_tk: door.empty_integers(&[t, rule.choices])?,
        weights_tk: door.empty(&[t, rule.choices])?,
        counts_ge: door.empty_integers(&[t / rule.scope_tokens, e])?,
    };
    logits_te.device().run(Op::Route {
        logits_te,
        bias_e,
        rule,
        experts_tk: &routing.experts_tk,
        weights_tk: &routing.weights_tk,
        counts_ge: &routing.counts_ge,
        loads_e,
        losses_2,
    })?;
    Ok(routing)
}

/// The gradient by the logits, times `keep`, of the weights and of both auxiliary losses, scaled as said.
pub fn route_grad(
    d_weights_tk: &Tensor,
    logits_te: &Tensor,
    routing: &Routing,
    rule: RouteRule,
    [balance_scale, z_scale]: [f64; 2],
    keep: f64,
) -> Result<Tensor> {
    let door = Door::new("route_grad", logits_te)?;
    let [t, e] = check(&door, logits_te, &rule)?;
    let Routing { experts_tk, counts_ge, .. } = routing;
    door.integers("experts", experts_tk, &[t, rule.choices])?;
    door.integers("counts", counts_ge, &[t / rule.scope_tokens, e])?;
    door.floats("d_weights", d_weights_tk, &[t, rule.choices])?;
    let d_logits_te = door.empty(&[t, e])?;
    logits_te.device().run(Op::RouteGrad {
        logits_te,
        experts_tk,
        counts_ge,
        d_weights_tk,
        rule,
        balance_scale,
        z_scale,
        keep,
        d_logits_te: &d_logits_te,
    })?;
    Ok(d_logits_te)
}

/// Stochastic routing warmup, in place: `keep x + (1 - keep)(mean + deviation noise)` (report, equation 3).
pub fn warm_logits(
    logits_te: &Tensor,
    noise_te: &Tensor,
    keep: f64,
    mean: f64,
    deviation: f64,
) -> Result<()> {
    let door = Door::new("warm_logits", logits_te)?;
    door.floats("noise", noise_te, logits_te.shape())?;
    door.apart("logits", logits_te, &[noise_te])?;
    door.require((0.0..=1.0).contains(&keep), "keep", keep, "between 0 and 1")?;
    logits_te.device().run(Op::WarmLogits { logits_te, noise_te, keep, mean, deviation })
}

fn check(door: &Door<'_>, logits: &Tensor, rule: &RouteRule) -> Result<[usize; 2]> {
    let [t, e] = door.dims("logits", logits)?;
    let RouteRule { choices, groups, groups_kept, scope_tokens, .. } = *rule;
    door.require(
        groups >= 1 && e.is_multiple_of(groups),
        "the number of groups",
        groups,
        format!("a divisor of {e}"),
    )?;
    door.require((1..=groups).contains(&groups_kept), "groups_kept", groups_kept, format!("1 to {groups}"))?;
    let most = groups_kept * (e / groups);
    door.require((1..=most).contains(&choices), "the number of choices", choices, format!("1 to {most}"))?;
    let fits = scope_tokens >= 1 && t.is_multiple_of(scope_tokens);
    door.require(fits, "scope_tokens", scope_tokens, format!("a divisor of the {t} tokens"))?;
    Ok([t, e])
}
