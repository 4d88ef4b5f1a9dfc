//! Each token visits a few experts and brings back a weighted answer; all tokens visit the shared expert.
//!
//! T tokens, D width, E experts, K choices, R = T*K rows sorted by expert, F the experts' inner width.

use crate::block::{Pass, Routed};
use crate::mlp::{self, DenseSaved};
use crate::weights::MoeWeights;
use lingot_device::ops::{Routing, Sorted};
use lingot_device::{Flip, Result, RouteRule, Tensor, ops};
use lingot_spec::run::Recompute;

/// Which experts each token visits: always kept, so that a recomputed layer cannot decide otherwise.
#[derive(Clone)]
pub(crate) struct Decision {
    logits_te: Tensor,
    routing: Routing,
    sorted: Sorted,
}

/// What is kept: the decision, and the pre-activations unless they are computed again.
pub(crate) struct MoeSaved {
    pub(crate) decision: Decision,
    gate_up_rf: Option<Tensor>,
    shared: Option<DenseSaved>,
}

/// Choose, send, answer, bring home.
pub(crate) fn forward(
    pass: &Pass<'_>,
    weights: &MoeWeights,
    h_td: &Tensor,
    decided: Option<Decision>,
) -> Result<(Tensor, MoeSaved)> {
    let decision = match decided {
        Some(decision) => decision,
        None => decide(pass, weights, h_td)?,
    };
    let gate_up_rf = pre_activation(weights, h_td, &decision)?;
    let active_rf = ops::swiglu(&gate_up_rf, Some(&row_weights(&decision)?))?;
    let answers_rd = ops::grouped_matmul(&active_rf, &weights.down, &decision.sorted.ends_e, false)?;
    drop(active_rf);
    let (out_td, shared) = match &weights.shared {
        Some(shared) => {
            let (out_td, saved) = mlp::forward(shared, h_td)?;
            ops::combine_onto(&out_td, &answers_rd, &decision.sorted.places_tk)?;
            (out_td, Some(saved))
        }
        None => (ops::combine(&answers_rd, &decision.sorted.places_tk)?, None),
    };
    let gate_up_rf = (pass.recompute != Recompute::Experts).then_some(gate_up_rf);
    Ok((out_td, MoeSaved { decision, gate_up_rf, shared }))
}

/// The gradient by `h`.
pub(crate) fn backward(
    pass: &Pass<'_>,
    weights: &MoeWeights,
    grads: &MoeWeights,
    h_td: &Tensor,
    saved: MoeSaved,
    d_out_td: &Tensor,
) -> Result<Tensor> {
    let MoeSaved { decision, gate_up_rf, shared } = saved;
    let Decision { logits_te, routing, sorted } = &decision;
    let [tokens, choices] = [routing.weights_tk.shape()[0], routing.weights_tk.shape()[1]];
    let gate_up_rf = match gate_up_rf {
        Some(gate_up_rf) => gate_up_rf,
        None => pre_activation(weights, h_td, &decision)?,
    };
    let weights_r = row_weights(&decision)?;

    // Down projection. The gradient of "bring home" is "send".
    let d_answers_rd = ops::dispatch(d_out_td, &sorted.order_r, choices)?;
    let active_rf = ops::swiglu(&gate_up_rf, Some(&weights_r))?;
    ops::grouped_matmul_weights(&d_answers_rd, &active_rf, &sorted.ends_e, &grads.down)?;
    drop(active_rf);
    let d_active_rf = ops::grouped_matmul(&d_answers_rd, &weights.down, &sorted.ends_e, true)?;
    drop(d_answers_rd);
    let (d_gate_up_rf, d_weights_r) = ops::swiglu_grad(&d_active_rf, &gate_up_rf, Some(&weights_r))?;
    drop((d_active_rf, gate_up_rf));

    // Gate and up projection. The gradient of "send" is "bring home".
    let rows_rd = ops::dispatch(h_td, &sorted.order_r, choices)?;
    ops::grouped_matmul_weights(&d_gate_up_rf, &rows_rd, &sorted.ends_e, &grads.gate_up)?;
    drop(rows_rd);
    let d_rows_rd = ops::grouped_matmul(&d_gate_up_rf, &weights.gate_up, &sorted.ends_e, true)?;
    drop(d_gate_up_rf);
    let d_h_td = match (&weights.shared, &grads.shared, shared) {
        (Some(weights), Some(grads), Some(saved)) => {
            let d_h_td = mlp::backward(weights, grads, h_td, &saved, d_out_td)?;
            ops::combine_onto(&d_h_td, &d_rows_rd, &sorted.places_tk)?;
            d_h_td
        }
        _ => ops::combine(&d_rows_rd, &sorted.places_tk)?,
    };
    drop(d_rows_rd);

    // The router.
    let d_weights_r = d_weights_r.unwrap_or(weights_r).reshape(&[tokens * choices, 1]);
    let places_r = sorted.places_tk.reshape(&[tokens * choices]);
    let d_weights_tk = ops::dispatch(&d_weights_r, &places_r, 1)?.reshape(&[tokens, choices]);
    let d_logits_te = ops::route_grad(
        &d_weights_tk,
        logits_te,
        routing,
        rule(pass),
        loss_scales(pass),
        pass.routed.and_then(|routed| routed.warmth).map_or(1.0, |warmth| warmth.keep),
    )?;
    ops::matmul_onto(&grads.router, &d_logits_te, h_td, Flip::A)?;
    ops::matmul_onto(&d_h_td, &d_logits_te, &weights.router, Flip::NONE)?;
    Ok(d_h_td)
}

/// Scores every expert and chooses.
fn decide(pass: &Pass<'_>, weights: &MoeWeights, h_td: &Tensor) -> Result<Decision> {
    let Some(Routed { index, tally, bias_e, warmth, statistics: [mean, deviation] }) = pass.routed else {
        unreachable!("a Mixture-of-Experts layer has a router")
    };
    let logits_te = ops::matmul(h_td, &weights.router, Flip::B)?;
    if pass.model.router.warmup_steps > 0 {
        ops::moments(&logits_te, &tally.moments_2)?;
    }
    if let Some(warmth) = warmth {
        let noise_te = h_td.device().floats(&(warmth.noise)(index), logits_te.shape(), logits_te.kind())?;
        ops::warm_logits(&logits_te, &noise_te, warmth.keep, mean, deviation)?;
    }
    let routing = ops::route(&logits_te, bias_e, rule(pass), &tally.loads_e, &tally.losses_2)?;
    let sorted = ops::sort_by_expert(&routing.experts_tk, pass.model.experts as usize)?;
    Ok(Decision { logits_te, routing, sorted })
}

/// Gate and up projection of each visit.
fn pre_activation(weights: &MoeWeights, h_td: &Tensor, decision: &Decision) -> Result<Tensor> {
    let choices = decision.routing.experts_tk.shape()[1];
    let rows_rd = ops::dispatch(h_td, &decision.sorted.order_r, choices)?;
    ops::grouped_matmul(&rows_rd, &weights.gate_up, &decision.sorted.ends_e, false)
}

/// The weight of each sorted row.
fn row_weights(decision: &Decision) -> Result<Tensor> {
    let weights_tk = &decision.routing.weights_tk;
    let rows = weights_tk.len();
    let weights_r1 = ops::dispatch(&weights_tk.reshape(&[rows, 1]), &decision.sorted.order_r, 1)?;
    Ok(weights_r1.reshape(&[rows]))
}

fn rule(pass: &Pass<'_>) -> RouteRule {
    let (model, router) = (pass.model, &pass.model.router);
    let tokens = pass.inputs.tokens_t.len();
    let scope = pass.inputs.sequence * router.balance_sequences as usize;
    RouteRule {
        score: router.score,
        choices: model.choices as usize,
        groups: router.groups as usize,
        groups_kept: router.groups_kept as usize,
        renormalise: router.renormalise,
        scale: router.scale,
        // Evaluation and decoding come in any size; there nothing depends on the scope.
        scope_tokens: if tokens.is_multiple_of(scope) { scope } else { tokens },
    }
}

/// What turns the sums that `route` takes into the weighted means of a step.
fn loss_scales(pass: &Pass<'_>) -> [f64; 2] {
    let router = &pass.model.router;
    let tokens = pass.totals.tokens as f64;
    let scopes = tokens / (pass.inputs.sequence as f64 * f64::from(router.balance_sequences));
    [router.balance_loss / scopes, router.z_loss / tokens]
}
