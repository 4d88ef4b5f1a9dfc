//! Which experts a token visits and how much each one counts.
//!
//! Ling v1: softmax, top-k, renormalise (arXiv 2503.05139, section 2). Ling v2: sigmoid, selection bias,
//! groups (arXiv 2510.22115). Balance loss: Switch Transformer (arXiv 2101.03961, equation 4), scaled so that
//! 1 is perfect.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::{Kind, Tensor};
use lingot_spec::Score;

op! {
    /// Chooses K experts for each token by `rule` and weighs them. Ties go to the lowest index. Also counts:
    /// for each scope of `scope_tokens` tokens how often each expert was chosen (`counts`), the same over all
    /// (`loads`, adds), and (`losses`, adds) the sum over scopes of the balance loss and the sum over tokens
    /// of logsumexp^2.
    Route = "route" {
        read logits_te: sums, read_if_given bias_e: sums, write experts_tk: ids, write weights_tk: sums,
        write counts_ge: ids, update loads_e: ids, update losses_2: sums,
    }
    {
        /// How experts are chosen and weighed.
        rule: RouteRule,
    }
    cost |op| moved(op.logits_te.len(), op.logits_te)
}

op! {
    /// Gradient of [`Route`] by the logits, times `keep`: of the weights, of `balance_scale` x the sum of
    /// balance losses, and of `z_scale` x the sum of logsumexp^2.
    RouteGrad = "route_grad" {
        read logits_te: sums, read experts_tk: ids, read counts_ge: ids, read d_weights_tk: sums,
        write d_logits_te: values_or_sums,
    }
    {
        /// How experts were chosen and weighed.
        rule: RouteRule,
        /// The balance loss's weight in the loss.
        balance_scale: f64,
        /// The z loss's weight in the loss.
        z_scale: f64,
        /// The logits' share in the routed logits, by [`WarmLogits`].
        keep: f64,
    }
    cost |op| moved(op.logits_te.len(), op.logits_te) + moved(op.logits_te.len(), op.d_logits_te)
}

op! {
    /// Stochastic routing warmup, in place: `x = keep x + (1 - keep)(mean + deviation noise)`.
    WarmLogits = "warm_logits" { update logits_te: sums, read noise_te: sums }
    {
        /// The logits' share, from 0 to 1.
        keep: f64,
        /// The mean of the noise.
        mean: f64,
        /// The standard deviation of the noise.
        deviation: f64,
    }
    cost |op| moved(3 * op.logits_te.len(), op.logits_te)
}

/// How experts are chosen and weighed: the numbers of a router that the op needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteRule {
    /// How logits become scores.
    pub score: Score,
    /// Experts per token.
    pub choices: usize,
    /// Groups of experts; divides E.
    pub groups: usize,
    /// Groups that a token may choose from.
    pub groups_kept: usize,
    /// Whether the weights of a token are made to add up to `scale`.
    pub renormalise: bool,
    /// What weights are multiplied by.
    pub scale: f64,
    /// Tokens of one scope of the balance loss; divides T.
    pub scope_tokens: usize,
}

/// The results of routing.
#[derive(Clone)]
pub struct Routing {
    /// The chosen experts, best first.
    pub experts_tk: Tensor,
    /// How much each counts.
    pub weights_tk: Tensor,
    /// How often each expert was chosen, per scope of the balance loss.
    pub counts_ge: Tensor,
}

/// Chooses and weighs each token's experts. Adds each expert's load to `loads`, and both auxiliary losses to
/// `losses`.
///
/// ```
/// # use lingot_device::{Device, Kind, RouteRule, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let rule = RouteRule {
///     score: lingot_spec::Score::Softmax,
///     choices: 1,
///     groups: 1,
///     groups_kept: 1,
///     renormalise: true,
///     scale: 1.0,
///     scope_tokens: 1,
/// };
/// let (loads, losses) = (device.zeros(&[3], Kind::I32)?, device.zeros(&[2], Kind::F32)?);
/// let logits = device.floats(&[0.0, 2.0, 1.0], &[1, 3], Kind::F32)?;
/// let routing = ops::route(&logits, None, rule, &loads, &losses)?;
/// assert_eq!(routing.experts_tk.to_integers()?, [1]);
/// assert_eq!(routing.weights_tk.to_floats()?, [1.0]);
/// assert_eq!(loads.to_integers()?, [0, 1, 0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
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
        door.operand("bias", bias_e, &[e])?;
    }
    door.operand("loads", loads_e, &[e])?;
    door.operand("losses", losses_2, &[2])?;
    let routing = Routing {
        experts_tk: door.empty_integers(&[t, rule.choices])?,
        weights_tk: door.empty(&[t, rule.choices])?,
        counts_ge: door.empty_integers(&[t / rule.scope_tokens, e])?,
    };
    logits_te.device().enqueue(Route {
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

/// Returns the gradient by the logits, times `keep`, of the weights and of both auxiliary losses, which are
/// multiplied by their scales. It is of `kind`: of the activations', since products take it with them.
///
/// ```
/// # use lingot_device::{Device, Kind, RouteRule, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// # let rule = RouteRule {
/// #     score: lingot_spec::Score::Softmax,
/// #     choices: 1,
/// #     groups: 1,
/// #     groups_kept: 1,
/// #     renormalise: true,
/// #     scale: 1.0,
/// #     scope_tokens: 1,
/// # };
/// # let (loads, losses) = (device.zeros(&[3], Kind::I32)?, device.zeros(&[2], Kind::F32)?);
/// let logits = device.floats(&[0.0, 2.0, 1.0], &[1, 3], Kind::F32)?;
/// let routing = ops::route(&logits, None, rule, &loads, &losses)?;
/// let d_weights = device.floats(&[1.0], &[1, 1], Kind::F32)?;
/// let d_logits = ops::route_grad(&d_weights, &logits, &routing, rule, [0.0, 0.0], 1.0, Kind::F32)?;
/// assert_eq!(d_logits.to_floats()?, [0.0; 3], "the weight of a single expert is 1 whatever the logits are");
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn route_grad(
    d_weights_tk: &Tensor,
    logits_te: &Tensor,
    routing: &Routing,
    rule: RouteRule,
    [balance_scale, z_scale]: [f64; 2],
    keep: f64,
    kind: Kind,
) -> Result<Tensor> {
    let door = Door::new("route_grad", logits_te)?;
    let [t, e] = check(&door, logits_te, &rule)?;
    let Routing { experts_tk, counts_ge, .. } = routing;
    door.operand("experts", experts_tk, &[t, rule.choices])?;
    door.operand("counts", counts_ge, &[t / rule.scope_tokens, e])?;
    door.operand("d_weights", d_weights_tk, &[t, rule.choices])?;
    let d_logits_te = logits_te.device().empty(&[t, e], kind)?;
    logits_te.device().enqueue(RouteGrad {
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

/// Blends the logits with noise in place: `keep x + (1 - keep)(mean + deviation noise)` (report, equation 3).
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let logits = device.floats(&[4.0, 8.0], &[1, 2], Kind::F32)?;
/// ops::warm_logits(&logits, &device.zeros(&[1, 2], Kind::F32)?, 0.5, 2.0, 1.0)?;
/// assert_eq!(logits.to_floats()?, [3.0, 5.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn warm_logits(
    logits_te: &Tensor,
    noise_te: &Tensor,
    keep: f64,
    mean: f64,
    deviation: f64,
) -> Result<()> {
    let door = Door::new("warm_logits", logits_te)?;
    door.operand("noise", noise_te, logits_te.shape())?;
    door.require((0.0..=1.0).contains(&keep), "keep", keep, "between 0 and 1")?;
    logits_te.device().enqueue(WarmLogits { logits_te, noise_te, keep, mean, deviation })
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
