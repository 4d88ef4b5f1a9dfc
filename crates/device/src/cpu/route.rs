//! Routing: scores, the choice of experts, their weights and losses; and the gradient.
//!
//! Tokens are computed in f32, a task each `PIECE` tokens of one scope; losses and mean scores are summed in
//! f64 within a task, and the tasks' sums added in their order.

use super::kernel::wide;
use super::operands::{Number, below, by_kind, floats, floats_mut, numbers_mut};
use super::scratch::{take, with_scratch};
use super::team::{Chunks, Team};
use super::vector::{dot, exp, exp_in_place, max, sigmoid};
use super::workspace::Workspace;
use crate::boundary::{Boundary, Size};
use crate::error::Result;
use crate::host::{view, view_mut};
use crate::op::{self, RouteRule, WarmLogits};
use lingot_spec::Score;

/// Most tokens of a task.
const PIECE: usize = 64;

/// Where a second task begins.
pub(super) const BOUNDARY: Boundary = Boundary::new(op::Route::NAME, Size::Rows, PIECE + 1);

/// Chooses and weighs experts, counts them, and adds the losses.
pub(super) fn route(team: &Team, space: &mut Workspace, op: &op::Route<'_>) -> Result<()> {
    let ([tokens, e], rule) = (op.logits_te.dims(), op.rule);
    let (logits_te, bias_e) = (floats(op.logits_te)?, op.bias_e.map(floats).transpose()?);
    let (experts_tk, weights_tk) = (view_mut::<i32>(op.experts_tk), floats_mut(op.weights_tk)?);
    let (counts_ge, loads_e) = (view_mut::<i32>(op.counts_ge), view_mut::<i32>(op.loads_e));
    let losses_2 = floats_mut(op.losses_2)?;
    // Tasks end where scopes end, so that a task's sums belong to one scope.
    let piece = (1..=PIECE).rev().find(|&piece| rule.scope_tokens.is_multiple_of(piece)).unwrap_or(1);
    // Of each task: the sum of logsumexp^2, then the sum of each expert's share of the scores.
    let sums = take(&mut space.doubles, tokens.div_ceil(piece) * (1 + e));
    let choices = piece * rule.choices;
    team.each_piece(
        (
            Chunks::of(&mut *experts_tk, choices),
            Chunks::of(weights_tk, choices),
            Chunks::of(&mut *sums, 1 + e),
        ),
        |task, (experts, weights, sums)| {
            let from = task * piece * e;
            let logits = &logits_te[from..(from + piece * e).min(logits_te.len())];
            with_scratch(|scratch| {
                let (scores, [selection, groups]) = (&mut scratch.tiles[0], &mut scratch.doubles);
                let room = (take(scores, e), take(selection, e), take(groups, rule.groups));
                route_piece(team, logits, bias_e, rule, room, (experts, weights, sums));
            });
        },
    );
    count(experts_tk, rule, counts_ge, loads_e);
    let (balance, z) = losses(sums, counts_ge, rule, e, rule.scope_tokens / piece);
    losses_2[0] = (f64::from(losses_2[0]) + balance) as f32;
    losses_2[1] = (f64::from(losses_2[1]) + z) as f32;
    Ok(())
}

/// Routes the tokens of one task, and sums what its losses need.
fn route_piece(
    team: &Team,
    logits: &[f32],
    bias_e: Option<&[f32]>,
    rule: RouteRule,
    (scores, selection, groups): (&mut [f32], &mut [f64], &mut [f64]),
    (experts, weights, sums): (&mut [i32], &mut [f32], &mut [f64]),
) {
    sums.fill(0.0);
    let tokens = experts.chunks_exact_mut(rule.choices).zip(weights.chunks_exact_mut(rule.choices));
    for ((experts, weights), logits) in tokens.zip(logits.chunks_exact(scores.len())) {
        let lse = f64::from(score(team.kernel, logits, scores, rule.score));
        sums[0] += lse * lse;
        add_shares(team.kernel, scores, rule.score, &mut sums[1..]);
        choose(scores, bias_e, rule, selection, groups, experts);
        weigh(scores, experts, rule, weights);
    }
}

/// How often each expert was chosen: by scope, and added to `loads`.
fn count(experts_tk: &[i32], rule: RouteRule, counts_ge: &mut [i32], loads_e: &mut [i32]) {
    counts_ge.fill(0);
    let scopes = experts_tk.chunks_exact(rule.scope_tokens * rule.choices);
    for (experts, counts) in scopes.zip(counts_ge.chunks_exact_mut(loads_e.len())) {
        for &expert in experts {
            counts[expert as usize] += 1;
        }
        for (load, count) in loads_e.iter_mut().zip(counts) {
            *load += *count;
        }
    }
}

/// The sum over scopes of `E sum of f_e P_e`, and of logsumexp^2 over tokens.
fn losses(sums: &[f64], counts_ge: &[i32], rule: RouteRule, e: usize, pieces_of_scope: usize) -> (f64, f64) {
    let (mut balance, mut z) = (0.0, 0.0);
    for (piece, sums) in sums.chunks_exact(1 + e).enumerate() {
        z += sums[0];
        let counts = &counts_ge[piece / pieces_of_scope * e..][..e];
        balance +=
            sums[1..].iter().zip(counts).map(|(share, &count)| pull(count, rule, e) * share).sum::<f64>();
    }
    (balance, z)
}

/// The balance loss per share of one token for an expert: `E f_e / n`.
fn pull(count: i32, rule: RouteRule, e: usize) -> f64 {
    let n = rule.scope_tokens as f64;
    e as f64 * f64::from(count) / (rule.choices as f64 * n * n)
}

wide! {
    /// A token's scores; returns the logsumexp of its logits.
    fn score(logits: &[f32], scores: &mut [f32], score: Score) -> f32 {
        let most = max(logits);
        scores.copy_from_slice(logits);
        let sum = exp_in_place(scores, most);
        match score {
            Score::Softmax => scores.iter_mut().for_each(|score| *score /= sum),
            Score::Sigmoid => {
                scores.iter_mut().zip(logits).for_each(|(score, &logit)| *score = sigmoid(logit));
            }
        }
        most + sum.ln()
    }
}

wide! {
    fn add_shares(scores: &[f32], score: Score, sums: &mut [f64]) {
        let sum = match score {
            Score::Softmax => 1.0,
            Score::Sigmoid => f64::from(dot([scores])),
        };
        for (sums, &score) in sums.iter_mut().zip(scores) {
            *sums += f64::from(score) / sum;
        }
    }
}

/// The K experts with the largest score + bias, best first, of the kept groups. Ties go to the lowest index,
/// and NaN is below everything. In f64, so that rounding the sums makes no ties.
fn choose(
    scores: &[f32],
    bias_e: Option<&[f32]>,
    rule: RouteRule,
    selection: &mut [f64],
    groups: &mut [f64],
    experts: &mut [i32],
) {
    for (i, (selection, &score)) in selection.iter_mut().zip(scores).enumerate() {
        let sum = f64::from(score) + bias_e.map_or(0.0, |bias| f64::from(bias[i]));
        // Lowest of all that may be chosen; what is excluded, or was chosen already, becomes NaN.
        *selection = if sum.is_nan() { f64::NEG_INFINITY } else { sum };
    }
    let size = selection.len() / rule.groups;
    if rule.groups_kept < rule.groups {
        for (group, value) in selection.chunks_exact(size).zip(groups.iter_mut()) {
            let sum = best_two(group);
            *value = if sum.is_nan() { f64::NEG_INFINITY } else { sum };
        }
        for _ in 0..rule.groups_kept {
            let kept = first_largest(groups);
            groups[kept] = f64::NAN;
        }
        for (group, value) in selection.chunks_exact_mut(size).zip(groups.iter()) {
            if !value.is_nan() {
                group.fill(f64::NAN);
            }
        }
    }
    for expert in experts {
        let chosen = first_largest(selection);
        selection[chosen] = f64::NAN;
        *expert = chosen as i32;
    }
}

/// The index of the first of the largest values that are not NaN.
fn first_largest(values: &[f64]) -> usize {
    let mut best: Option<usize> = None;
    for (i, &value) in values.iter().enumerate() {
        if !value.is_nan() && best.is_none_or(|best| value > values[best]) {
            best = Some(i);
        }
    }
    best.unwrap_or(0)
}

/// The sum of the two largest, or the only one.
fn best_two(values: &[f64]) -> f64 {
    let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for &value in values {
        if value > first {
            (first, second) = (value, first);
        } else if value > second {
            second = value;
        }
    }
    if values.len() == 1 { first } else { first + second }
}

fn weigh(scores: &[f32], experts: &[i32], rule: RouteRule, weights: &mut [f32]) {
    let divisor = if rule.renormalise { chosen_sum(scores, experts, rule.score) } else { 1.0 };
    for (weight, &expert) in weights.iter_mut().zip(experts) {
        *weight = rule.scale as f32 * (scores[expert as usize] / divisor);
    }
}

/// What renormalised weights are divided by.
fn chosen_sum(scores: &[f32], experts: &[i32], score: Score) -> f32 {
    let sum: f32 = experts.iter().map(|&expert| scores[expert as usize]).sum();
    match score {
        Score::Softmax => sum,
        Score::Sigmoid => sum + 1e-20,
    }
}

/// The inputs of the gradient, and its numbers.
struct RouteGrad<'a> {
    e: usize,
    logits_te: &'a [f32],
    experts_tk: &'a [i32],
    counts_ge: &'a [i32],
    d_weights_tk: &'a [f32],
    rule: RouteRule,
    balance_scale: f64,
    z_scale: f64,
    keep: f64,
}

/// The gradient by the logits.
pub(super) fn grad(team: &Team, op: &op::RouteGrad<'_>) -> Result<()> {
    let op::RouteGrad { rule, balance_scale, z_scale, keep, .. } = *op;
    let [_, e] = op.logits_te.dims();
    let given = RouteGrad {
        e,
        logits_te: floats(op.logits_te)?,
        experts_tk: below(op::RouteGrad::NAME, "an expert", op.experts_tk, 0, e)?,
        counts_ge: view(op.counts_ge),
        d_weights_tk: floats(op.d_weights_tk)?,
        rule,
        balance_scale,
        z_scale,
        keep,
    };
    by_kind!(op.d_logits_te, E => by_logits::<E>(team, &given, numbers_mut(op.d_logits_te)?));
    Ok(())
}

fn by_logits<E: Number>(team: &Team, given: &RouteGrad<'_>, d_logits_te: &mut [E]) {
    let e = given.e;
    team.each_piece(Chunks::of(d_logits_te, PIECE * e), |task, d_logits| {
        with_scratch(|scratch| {
            let [scores, d_scores, ..] = &mut scratch.tiles;
            let (scores, d_scores) = (take(scores, e), take(d_scores, e));
            for (index, d_logits) in d_logits.chunks_exact_mut(e).enumerate() {
                given.token(team, task * PIECE + index, scores, d_scores, d_logits);
            }
        });
    });
}

impl RouteGrad<'_> {
    fn token<E: Number>(
        &self,
        team: &Team,
        t: usize,
        scores: &mut [f32],
        d_scores: &mut [f32],
        d_logits: &mut [E],
    ) {
        let RouteGrad { e, rule, .. } = *self;
        let logits = &self.logits_te[t * e..][..e];
        let lse = score(team.kernel, logits, scores, rule.score);
        d_scores.fill(0.0);
        self.by_balance(t, scores, d_scores);
        self.by_weights(t, scores, d_scores);
        let factors = [self.keep as f32, 2.0 * self.z_scale as f32 * lse];
        through_scores(team.kernel, [logits, scores, d_scores], lse, rule.score, factors, d_logits);
    }

    fn by_weights(&self, t: usize, scores: &[f32], d_scores: &mut [f32]) {
        let RouteRule { choices, renormalise, score, scale, .. } = self.rule;
        let experts = &self.experts_tk[t * choices..][..choices];
        let d_weights = &self.d_weights_tk[t * choices..][..choices];
        let (mut factor, mut mean) = (scale as f32, 0.0);
        if renormalise {
            let sum = chosen_sum(scores, experts, score);
            mean =
                experts.iter().zip(d_weights).map(|(&expert, d)| d * (scores[expert as usize] / sum)).sum();
            factor /= sum;
        }
        for (&expert, d_weight) in experts.iter().zip(d_weights) {
            d_scores[expert as usize] += factor * (d_weight - mean);
        }
    }

    fn by_balance(&self, t: usize, scores: &[f32], d_scores: &mut [f32]) {
        if self.balance_scale == 0.0 {
            return;
        }
        let RouteGrad { e, rule, .. } = *self;
        let counts = &self.counts_ge[t / rule.scope_tokens * e..][..e];
        for (d_score, &count) in d_scores.iter_mut().zip(counts) {
            *d_score = (self.balance_scale * pull(count, rule, e)) as f32;
        }
        if rule.score == Score::Sigmoid {
            let sum: f32 = scores.iter().sum();
            let along: f32 = scores.iter().zip(&*d_scores).map(|(score, d)| score * d).sum();
            d_scores.iter_mut().for_each(|d| *d = (*d - along / sum) / sum);
        }
    }
}

wide! {
    fn through_scores<E: Number>(
        given: [&[f32]; 3],
        lse: f32,
        score: Score,
        factors: [f32; 2],
        d_logits: &mut [E],
    ) {
        let ([logits, scores, d_scores], [keep, z]) = (given, factors);
        let e = d_logits.len();
        let (logits, scores, d_scores) = (&logits[..e], &scores[..e], &d_scores[..e]);
        match score {
            Score::Softmax => {
                let along = dot([scores, d_scores]);
                for i in 0..e {
                    let d = keep * (scores[i] * (d_scores[i] - along) + z * scores[i]);
                    d_logits[i] = E::rounded(d);
                }
            }
            Score::Sigmoid => {
                for i in 0..e {
                    let through = scores[i] * (1.0 - scores[i]) * d_scores[i];
                    d_logits[i] = E::rounded(keep * (through + z * exp(logits[i] - lse)));
                }
            }
        }
    }
}

/// `x = keep x + (1 - keep)(mean + deviation noise)`.
pub(super) fn warm_logits(team: &Team, op: &WarmLogits<'_>) -> Result<()> {
    let WarmLogits { keep, mean, deviation, .. } = *op;
    let (logits, noise) = (floats_mut(op.logits_te)?, floats(op.noise_te)?);
    let each = super::TASK_ELEMENTS;
    let numbers = [keep as f32, ((1.0 - keep) * mean) as f32, ((1.0 - keep) * deviation) as f32];
    team.each_piece(Chunks::of(logits, each), |task, logits| {
        blend(team.kernel, logits, &noise[task * each..], numbers);
    });
    Ok(())
}

wide! {
    fn blend(logits: &mut [f32], noise: &[f32], numbers: [f32; 3]) {
        let [keep, mean, deviation] = numbers;
        for (logit, noise) in logits.iter_mut().zip(noise) {
            *logit = keep * *logit + (mean + deviation * noise);
        }
    }
}
