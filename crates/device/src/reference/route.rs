//! Which experts a token visits, how much each counts, and the losses that keep the experts busy.
//!
//! Ling v1 scores by a softmax over all experts (arXiv 2503.05139, section 2), v2 by sigmoids, with a
//! selection bias and groups (arXiv 2510.22115; DeepSeek-V3, arXiv 2412.19437, section 2.1.2). The balance
//! loss is that of Switch Transformer (arXiv 2101.03961, equations 4 to 6), the z-loss that of ST-MoE (arXiv
//! 2202.08906, equation 5).

use super::operands::{add, floats, integers, store, store_integers};
use crate::op::{self, RouteRule, WarmLogits};
use lingot_spec::Score;

pub(super) fn route(op: &op::Route<'_>) {
    let ([_, e], bias) = (op.logits_te.dims(), op.bias_e.map(floats));
    let routed = forward(&floats(op.logits_te), bias.as_deref(), op.rule, e);
    let mut loads = integers(op.loads_e);
    routed.experts.iter().for_each(|&expert| loads[expert as usize] += 1);
    store_integers(op.experts_tk, &routed.experts);
    store(op.weights_tk, &routed.weights);
    store_integers(op.counts_ge, &routed.counts);
    store_integers(op.loads_e, &loads);
    add(op.losses_2, &routed.losses);
}

pub(super) fn route_grad(op: &op::RouteGrad<'_>) {
    let ([_, e], d_weights) = (op.logits_te.dims(), &floats(op.d_weights_tk));
    let (experts, counts) = (&integers(op.experts_tk), &integers(op.counts_ge));
    let op::RouteGrad { rule, balance_scale, z_scale, keep, .. } = *op;
    let grad = RouteGrad { experts, counts, d_weights, rule, balance_scale, z_scale, keep };
    store(op.d_logits_te, &grad.by_logits(&floats(op.logits_te), e));
}

pub(super) fn warm_logits(op: &WarmLogits<'_>) {
    let warm = warm(&floats(op.logits_te), &floats(op.noise_te), [op.keep, op.mean, op.deviation]);
    store(op.logits_te, &warm);
}

/// The results of routing.
struct Routed {
    experts: Vec<i32>,
    weights: Vec<f64>,
    counts: Vec<i32>,
    losses: [f64; 2],
}

/// Routes each token: its K experts by `choose`, their weights by `weigh`; then the losses:
/// the sum over scopes of `E sum over e of f_e P_e`, where `f_e = counts_e / (K n)` is the share of the
/// scope's n tokens that went to e and `P_e` the mean of e's share of the scores, and the sum over tokens of
/// `logsumexp(logits)^2`.
fn forward(logits: &[f64], bias: Option<&[f64]>, rule: RouteRule, e: usize) -> Routed {
    let tokens = logits.len() / e;
    let mut routed = Routed {
        experts: vec![],
        weights: vec![],
        counts: vec![0; tokens / rule.scope_tokens * e],
        losses: [0.0, 0.0],
    };
    for (t, logits) in logits.chunks_exact(e).enumerate() {
        let scores = scores(logits, rule.score);
        let chosen = choose(&scores, bias, rule);
        routed.weights.extend(weigh(&scores, &chosen, rule));
        for &expert in &chosen {
            routed.experts.push(expert as i32);
            routed.counts[t / rule.scope_tokens * e + expert] += 1;
        }
        routed.losses[1] += log_sum_exp(logits).powi(2);
    }
    for (t, logits) in logits.chunks_exact(e).enumerate() {
        let shares = shares(&scores(logits, rule.score), rule.score);
        for (expert, share) in shares.iter().enumerate() {
            routed.losses[0] += pull(&routed.counts, t, expert, e, rule) * share;
        }
    }
    routed
}

/// The gradient of `keep` x (`d_weights . weights + balance_scale losses[0] + z_scale losses[1]`).
struct RouteGrad<'a> {
    experts: &'a [i32],
    counts: &'a [i32],
    d_weights: &'a [f64],
    rule: RouteRule,
    balance_scale: f64,
    z_scale: f64,
    keep: f64,
}

impl RouteGrad<'_> {
    /// The gradient by the logits; the choice itself and the counts `f_e` have none. First by the scores s
    /// (see `by_scores`), then through them: `p_e (d_p_e - sum of p d_p)` for a softmax,
    /// `s_e (1 - s_e) d_s_e` for sigmoids; the z-loss adds `2 logsumexp(z) softmax(z)_e`.
    fn by_logits(&self, logits: &[f64], e: usize) -> Vec<f64> {
        let mut d_logits = vec![0.0; logits.len()];
        for (t, logits) in logits.chunks_exact(e).enumerate() {
            let scores = scores(logits, self.rule.score);
            let d_scores = self.by_scores(&scores, t, e);
            let along: f64 = scores.iter().zip(&d_scores).map(|(s, d)| s * d).sum();
            let lse = log_sum_exp(logits);
            for expert in 0..e {
                let (s, d_s) = (scores[expert], d_scores[expert]);
                let through = match self.rule.score {
                    Score::Softmax => s * (d_s - along),
                    Score::Sigmoid => s * (1.0 - s) * d_s,
                };
                let z = 2.0 * lse * (logits[expert] - lse).exp();
                d_logits[t * e + expert] = self.keep * (through + self.z_scale * z);
            }
        }
        d_logits
    }

    /// The gradient by token t's scores. Of the weights: `w_k = scale s_k / N` with
    /// `N = sum of the chosen s`, so `d_s_k = scale / N (d_w_k - sum over j of d_w_j s_j / N)`, or just
    /// `scale d_w_k` if not renormalised. Of the balance loss: its share `s_e / sum(s)` is pulled by
    /// `E f_e / n`; a softmax's sum is 1 whatever its logits are.
    fn by_scores(&self, scores: &[f64], t: usize, e: usize) -> Vec<f64> {
        let RouteRule { choices, renormalise, scale, score, .. } = self.rule;
        let mut d_scores = vec![0.0; e];
        let chosen: Vec<usize> = (t * choices..(t + 1) * choices).map(|i| self.experts[i] as usize).collect();
        let d_weights = &self.d_weights[t * choices..(t + 1) * choices];
        let sum = chosen_sum(scores, &chosen, score);
        let mean: f64 = chosen.iter().zip(d_weights).map(|(&expert, d)| d * scores[expert] / sum).sum();
        for (&expert, d_weight) in chosen.iter().zip(d_weights) {
            d_scores[expert] += if renormalise { scale / sum * (d_weight - mean) } else { scale * d_weight };
        }
        let shares = shares(scores, score);
        let pulls: Vec<f64> = (0..e).map(|expert| pull(self.counts, t, expert, e, self.rule)).collect();
        let along: f64 = shares.iter().zip(&pulls).map(|(share, pull)| share * pull).sum();
        for expert in 0..e {
            d_scores[expert] += self.balance_scale
                * match score {
                    Score::Softmax => pulls[expert],
                    Score::Sigmoid => (pulls[expert] - along) / scores.iter().sum::<f64>(),
                };
        }
        d_scores
    }
}

/// Stochastic routing warmup (Ling report, equation 3): `keep x + (1 - keep)(mean + deviation noise)`.
fn warm(logits: &[f64], noise: &[f64], [keep, mean, deviation]: [f64; 3]) -> Vec<f64> {
    logits.iter().zip(noise).map(|(x, noise)| keep * x + (1.0 - keep) * (mean + deviation * noise)).collect()
}

/// `log sum exp(z)`, shifted by the largest so that nothing overflows.
pub(super) fn log_sum_exp(z: &[f64]) -> f64 {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln()
}

/// The scores of one token: `softmax(z)`, or `1 / (1 + exp(-z))` of each logit.
fn scores(logits: &[f64], score: Score) -> Vec<f64> {
    let lse = log_sum_exp(logits);
    let one = |&logit: &f64| match score {
        Score::Softmax => (logit - lse).exp(),
        Score::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
    };
    logits.iter().map(one).collect()
}

/// The K experts of the largest `score + bias`, best first, out of the `groups_kept` groups whose two best
/// experts have the largest sum. Ties go to the lowest index; a NaN is below everything.
fn choose(scores: &[f64], bias: Option<&[f64]>, rule: RouteRule) -> Vec<usize> {
    let selection: Vec<f64> = scores
        .iter()
        .enumerate()
        .map(|(i, score)| below_all_if_nan(score + bias.map_or(0.0, |bias| bias[i])))
        .collect();
    let group_size = scores.len() / rule.groups;
    let group_scores: Vec<f64> = selection
        .chunks_exact(group_size)
        .map(|group| below_all_if_nan(best(group, 2.min(group_size)).iter().map(|&i| group[i]).sum()))
        .collect();
    let kept = best(&group_scores, rule.groups_kept);
    let candidates: Vec<usize> = (0..scores.len()).filter(|i| kept.contains(&(i / group_size))).collect();
    let values: Vec<f64> = candidates.iter().map(|&i| selection[i]).collect();
    best(&values, rule.choices).into_iter().map(|i| candidates[i]).collect()
}

/// The indices of the `count` largest values, largest first, ties by index.
fn best(values: &[f64], count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..values.len()).collect();
    indices.sort_by(|&a, &b| {
        values[b].partial_cmp(&values[a]).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(&b))
    });
    indices.truncate(count);
    indices
}

fn below_all_if_nan(x: f64) -> f64 {
    if x.is_nan() { f64::NEG_INFINITY } else { x }
}

/// `scale s_k / (sum of the chosen s)`, or `scale s_k` if not renormalised. The bias chooses only; it never
/// weighs.
fn weigh(scores: &[f64], chosen: &[usize], rule: RouteRule) -> Vec<f64> {
    let divisor = if rule.renormalise { chosen_sum(scores, chosen, rule.score) } else { 1.0 };
    chosen.iter().map(|&expert| rule.scale * scores[expert] / divisor).collect()
}

/// What renormalised weights are divided by. All sigmoids may be 0, hence the 1e-20 of Ling v2.
fn chosen_sum(scores: &[f64], chosen: &[usize], score: Score) -> f64 {
    let sum: f64 = chosen.iter().map(|&expert| scores[expert]).sum();
    match score {
        Score::Softmax => sum,
        Score::Sigmoid => sum + 1e-20,
    }
}

/// The scores as a distribution over experts.
fn shares(scores: &[f64], score: Score) -> Vec<f64> {
    let sum: f64 = match score {
        Score::Softmax => 1.0,
        Score::Sigmoid => scores.iter().sum(),
    };
    scores.iter().map(|score| score / sum).collect()
}

/// The balance loss per share of token t for an expert: `E f_e / n`, of t's scope.
fn pull(counts: &[i32], t: usize, expert: usize, e: usize, rule: RouteRule) -> f64 {
    let n = rule.scope_tokens as f64;
    let f = f64::from(counts[t / rule.scope_tokens * e + expert]) / (rule.choices as f64 * n);
    e as f64 * f / n
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: RouteRule = RouteRule {
        score: Score::Sigmoid,
        choices: 2,
        groups: 1,
        groups_kept: 1,
        renormalise: true,
        scale: 2.5,
        scope_tokens: 1,
    };

    #[test]
    fn ties_go_to_the_lowest_index() {
        assert_eq!(choose(&[0.5; 6], None, RULE), [0, 1]);
        assert_eq!(choose(&[0.1, 0.5, 0.9, 0.5], None, RULE), [2, 1]);
        assert_eq!(choose(&[0.5; 6], None, RouteRule { groups: 3, ..RULE }), [0, 1]);
    }

    #[test]
    fn a_group_counts_by_its_two_best_experts() {
        // The best expert of all is in the first group, whose two best together are less than the second's.
        let scores = [0.9, 0.0, 0.0, 0.5, 0.6, 0.1];
        let rule = RouteRule { groups: 2, choices: 3, ..RULE };
        assert_eq!(choose(&scores, None, rule), [4, 3, 5]);
    }

    #[test]
    fn the_bias_chooses_but_does_not_weigh() {
        let scores = [0.4, 0.3, 0.1];
        let chosen = choose(&scores, Some(&[0.0, 0.0, 1.0]), RULE);
        assert_eq!(chosen, [2, 0]);
        let weights = weigh(&scores, &chosen, RULE);
        assert!((weights[0] - 0.5).abs() < 1e-12 && (weights[1] - 2.0).abs() < 1e-12, "{weights:?}");
    }

    #[test]
    fn what_is_not_a_number_is_chosen_last() {
        assert_eq!(choose(&[f64::NAN, 0.1, f64::NAN, 0.2], None, RULE), [3, 1]);
        let all = RouteRule { groups: 2, ..RULE };
        assert_eq!(choose(&[f64::NAN; 4], Some(&[f64::INFINITY, f64::NAN, 0.0, 0.0]), all), [0, 1]);
        for score in [Score::Softmax, Score::Sigmoid] {
            let routed = forward(&[f64::NAN, 1.0, f64::INFINITY], None, RouteRule { score, ..RULE }, 3);
            assert_eq!(routed.counts.iter().sum::<i32>(), 2);
        }
    }

    #[test]
    fn perfect_balance_is_a_loss_of_one_per_scope() {
        // Two tokens, two experts, each token sure of its own.
        let rule = RouteRule { choices: 1, scope_tokens: 2, score: Score::Softmax, ..RULE };
        let routed = forward(&[1.0, -1.0, -1.0, 1.0], None, rule, 2);
        assert_eq!(routed.counts, [1, 1]);
        assert!((routed.losses[0] - 1.0).abs() < 1e-12, "{:?}", routed.losses);
    }
}
