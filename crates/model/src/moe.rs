//! The Mixture of Experts: each token visits a few experts, whose answers are weighted and summed; all tokens
//! visit the shared expert.
//!
//! T tokens, D width, E experts, K choices, R = T*K rows sorted by expert, F the experts' inner width.
//!
//! A suffix gives a tensor's shape: `h_td` is `[T, D]`. `h` is the normed input, and `d_x` is the gradient
//! with respect to x. The weights' gradients (`gradients.of(weight)`), and tensors that a function's doc says
//! it adds to, are passed as `&Tensor` and accumulated into.

use crate::context::Context;
use crate::gradients::Gradients;
use crate::inputs::Noise;
use crate::mlp::{self, DenseSaved};
use crate::routers::LogitStatistics;
use crate::weights::MoeWeights;
use lingot_device::ops::{Routing, Sorted, WeightedSwigluGrad};
use lingot_device::{Flip, Result, RouteRule, Tensor, ops};

/// Which experts each token visits: always saved, so that a recomputed layer cannot route differently.
#[derive(Clone)]
pub(crate) struct Decision {
    logits_te: Tensor,
    routing: Routing,
    sorted: Sorted,
    /// The routing weight of each sorted row, `[R]`.
    weights_r: Tensor,
}

/// What the backward pass reads, with the weights it was computed with.
pub(crate) struct MoeSaved<'m> {
    weights: &'m MoeWeights,
    pub(crate) decision: Decision,
    /// The pre-activations `[R, 2 F]`; `None` if the backward pass recomputes them.
    gate_up_rf: Option<Tensor>,
    /// The shared expert's, where the layer has one.
    shared: Option<DenseSaved<'m>>,
}

/// Returns the experts' weighted answers, `[T, D]`, and what the backward pass needs. Uses the routing
/// `decided` if given, else decides; saves the pre-activations if `keeps_pre_activation` says so.
pub(crate) fn forward<'m>(
    context: &Context<'_>,
    weights: &'m MoeWeights,
    h_td: &Tensor,
    decided: Option<Decision>,
    keeps_pre_activation: bool,
) -> Result<(Tensor, MoeSaved<'m>)> {
    let decision = match decided {
        Some(decision) => decision,
        None => decide(context, weights, h_td)?,
    };
    let gate_up_rf = pre_activation(weights, h_td, &decision)?;
    let active_rf = ops::swiglu(&gate_up_rf, Some(&decision.weights_r))?;
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
    let gate_up_rf = keeps_pre_activation.then_some(gate_up_rf);
    Ok((out_td, MoeSaved { weights, decision, gate_up_rf, shared }))
}

/// Returns the gradient with respect to `h`, `[T, D]`; adds to those of the weights.
pub(crate) fn backward(
    context: &Context<'_>,
    saved: MoeSaved<'_>,
    gradients: &Gradients,
    h_td: &Tensor,
    d_out_td: &Tensor,
) -> Result<Tensor> {
    let MoeSaved { weights, decision, gate_up_rf, shared } = saved;
    let sorted = &decision.sorted;
    let choices = decision.routing.experts_tk.shape()[1];
    let gate_up_rf = match gate_up_rf {
        Some(gate_up_rf) => gate_up_rf,
        None => pre_activation(weights, h_td, &decision)?,
    };

    // Down projection. Combining the answers has dispatching as its gradient.
    let d_answers_rd = ops::dispatch(d_out_td, &sorted.order_r, choices)?;
    let d_active_rf = ops::grouped_matmul(&d_answers_rd, &weights.down, &sorted.ends_e, true)?;
    let WeightedSwigluGrad { d_gate_up: d_gate_up_rf, out_rf: active_rf, d_weights_r } =
        ops::weighted_swiglu_grad(d_active_rf, gate_up_rf, &decision.weights_r)?;
    gradients.add_products(&weights.down, &d_answers_rd, &active_rf, &sorted.ends_e)?;
    drop((active_rf, d_answers_rd));

    // Gate and up projections. Dispatching the rows has combining as its gradient.
    let rows_rd = ops::dispatch(h_td, &sorted.order_r, choices)?;
    gradients.add_products(&weights.gate_up, &d_gate_up_rf, &rows_rd, &sorted.ends_e)?;
    drop(rows_rd);
    let d_rows_rd = ops::grouped_matmul(&d_gate_up_rf, &weights.gate_up, &sorted.ends_e, true)?;
    drop(d_gate_up_rf);
    let d_h_td = match shared {
        Some(saved) => {
            let d_h_td = mlp::backward(saved, gradients, h_td, d_out_td)?;
            ops::combine_onto(&d_h_td, &d_rows_rd, &sorted.places_tk)?;
            d_h_td
        }
        None => ops::combine(&d_rows_rd, &sorted.places_tk)?,
    };
    drop(d_rows_rd);
    router_backward(context, weights, gradients, h_td, &decision, &d_weights_r, &d_h_td)?;
    Ok(d_h_td)
}

/// Adds the router's part of the gradient with respect to `h` to `d_h` `[T, D]`, given the gradient with
/// respect to the weights of the sorted rows, `[R]`; adds to the gradient of the router.
fn router_backward(
    context: &Context<'_>,
    weights: &MoeWeights,
    gradients: &Gradients,
    h_td: &Tensor,
    decision: &Decision,
    d_weights_r: &Tensor,
    d_h_td: &Tensor,
) -> Result<()> {
    let Decision { logits_te, routing, sorted, .. } = decision;
    let [tokens, choices] = [routing.weights_tk.shape()[0], routing.weights_tk.shape()[1]];
    let d_weights_r1 = d_weights_r.reshape(&[tokens * choices, 1]);
    let places_r = sorted.places_tk.reshape(&[tokens * choices]);
    // With one choice `dispatch` is a plain gather of rows: here from the sorted order back to the tokens'.
    let d_weights_tk = ops::dispatch(&d_weights_r1, &places_r, 1)?.reshape(&[tokens, choices]);
    let d_logits_te = ops::route_grad(
        &d_weights_tk,
        logits_te,
        routing,
        rule(context),
        loss_scales(context),
        context.warmth.map_or(1.0, |warmth| warmth.keep),
        h_td.kind(),
    )?;
    gradients.add_product(&weights.router, &d_logits_te, h_td)?;
    ops::matmul_onto(d_h_td, &d_logits_te, &weights.router, Flip::NONE)
}

/// Scores every expert and chooses. Changes the logits in place during the router's warm-up, and updates the
/// tallies.
fn decide(context: &Context<'_>, weights: &MoeWeights, h_td: &Tensor) -> Result<Decision> {
    let (number, tally) = (weights.number, &context.tally.routed[weights.number]);
    let logits_te = ops::matmul_sums(h_td, &weights.router, Flip::B)?;
    if context.model.router.warmup_steps > 0 {
        ops::moments(&logits_te, &tally.moments_2)?;
    }
    // Warm-up: the logits are blended with noise of their running mean and deviation.
    if let Some(warmth) = context.warmth {
        let noise_te = match warmth.noise {
            Noise::Drawn(draw) => h_td.device().floats(&draw(number), logits_te.shape(), logits_te.kind())?,
            Noise::Given(noise_te) => noise_te.clone(),
        };
        let LogitStatistics { mean, deviation } = context.statistics[number];
        ops::warm_logits(&logits_te, &noise_te, warmth.keep, mean, deviation)?;
    }
    let bias_e = context.biases.get(number);
    let routing = ops::route(&logits_te, bias_e, rule(context), &tally.loads_e, &tally.losses_2)?;
    let sorted = ops::sort_by_expert(&routing.experts_tk, context.model.experts as usize)?;
    let weights_r = row_weights(&routing, &sorted)?;
    Ok(Decision { logits_te, routing, sorted, weights_r })
}

/// Returns the gate and up projections of each sorted row, `[R, 2 F]`.
fn pre_activation(weights: &MoeWeights, h_td: &Tensor, decision: &Decision) -> Result<Tensor> {
    let choices = decision.routing.experts_tk.shape()[1];
    let rows_rd = ops::dispatch(h_td, &decision.sorted.order_r, choices)?;
    ops::grouped_matmul(&rows_rd, &weights.gate_up, &decision.sorted.ends_e, false)
}

/// Returns the routing weight of each sorted row, `[R]`.
fn row_weights(routing: &Routing, sorted: &Sorted) -> Result<Tensor> {
    let weights_tk = &routing.weights_tk;
    let rows = weights_tk.len();
    // A plain gather of one weight per row.
    let weights_r1 = ops::dispatch(&weights_tk.reshape(&[rows, 1]), &sorted.order_r, 1)?;
    Ok(weights_r1.reshape(&[rows]))
}

/// Returns the routing rule of this batch. A scope is the group of sequences over which the balance loss is
/// computed.
fn rule(context: &Context<'_>) -> RouteRule {
    let (model, router) = (context.model, &context.model.router);
    let tokens = context.inputs.tokens_t.len();
    let scope = context.inputs.sequence * router.balance_sequences as usize;
    RouteRule {
        score: router.score,
        choices: model.choices as usize,
        groups: router.groups as usize,
        groups_kept: router.groups_kept as usize,
        renormalise: router.renormalise,
        scale: router.scale,
        // Evaluation and decoding batches need not divide into scopes; they use no balance loss.
        scope_tokens: if tokens.is_multiple_of(scope) { scope } else { tokens },
    }
}

/// Returns the factors that turn the sums of `route` (balance loss over scopes, logsumexp^2 over tokens) into
/// the weighted means of a step.
fn loss_scales(context: &Context<'_>) -> [f64; 2] {
    let router = &context.model.router;
    let tokens = context.totals.tokens as f64;
    let scopes = tokens / (context.inputs.sequence as f64 * f64::from(router.balance_sequences));
    [router.balance_loss / scopes, router.z_loss / tokens]
}
