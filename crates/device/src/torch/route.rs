//! Routing: scores, the choice of experts, their weights and losses.

use super::refusal::Refusal;
use super::selection::Selection;
use super::sums::log_sum_exp;
use super::value::Value;
use super::{Torch, sizes};
use crate::op::{self, RouteRule, WarmLogits};
use crate::tensor::Tensor;
use lingot_spec::Score;

pub(super) fn route(torch: &Torch, op: &op::Route<'_>) -> Result<(), Refusal> {
    let op::Route { logits_te, bias_e, rule, experts_tk, weights_tk, counts_ge, loads_e, losses_2 } = *op;
    let router = Router::of(torch, logits_te, rule);
    let logits = torch.floats(logits_te)?;
    let scores = router.scores(&logits)?;
    let experts = router.choose(&scores, bias_e)?;
    torch.store_integers(experts_tk, &experts)?;
    torch.floats(weights_tk)?.set(&router.weigh(&scores, &experts)?.0)?;
    let counts = router.counts(&experts)?;
    torch.store_integers(counts_ge, &counts)?;
    let aten = torch.aten();
    let before = torch.indices(loads_e, &[1, router.experts])?;
    let all = aten.cat(&[&before, &torch.indices(counts_ge, &[router.scopes, router.experts])?], 0)?;
    torch.store_integers(loads_e, &aten.sum(&all, Some(&[0]), false, None)?)?;
    torch.accumulate(&torch.floats(losses_2)?, &router.losses(&logits, &scores, &counts)?)
}

/// `x = keep x + (1 - keep)(mean + deviation noise)`.
pub(super) fn warm_logits(torch: &Torch, op: &WarmLogits<'_>) -> Result<(), Refusal> {
    let WarmLogits { logits_te, noise_te, keep, mean, deviation } = *op;
    let aten = torch.aten();
    let (logits, noise) = (torch.floats(logits_te)?, torch.floats(noise_te)?);
    let rest = aten.mul(&noise, &torch.scalar((1.0 - keep) * deviation)?)?;
    let rest = rest.plus(&torch.scalar((1.0 - keep) * mean)?)?;
    torch.accumulate(&aten.mul_(&logits, &torch.scalar(keep)?)?, &rest)
}

/// The sizes of a router and its rule.
pub(super) struct Router<'a> {
    pub(super) torch: &'a Torch,
    pub(super) rule: RouteRule,
    pub(super) tokens: i64,
    pub(super) experts: i64,
    pub(super) scopes: i64,
}

impl<'a> Router<'a> {
    pub(super) fn of(torch: &'a Torch, logits_te: &Tensor, rule: RouteRule) -> Router<'a> {
        let (tokens, experts) = logits_te.rows_and_width();
        let scopes = (tokens / rule.scope_tokens) as i64;
        Router { torch, rule, tokens: tokens as i64, experts: experts as i64, scopes }
    }

    pub(super) fn scores(&self, logits: &Value) -> Result<Value, Refusal> {
        match self.rule.score {
            Score::Softmax => self.torch.aten().softmax(logits, 1, false),
            Score::Sigmoid => self.torch.aten().sigmoid(logits),
        }
    }

    /// The K experts of the largest score + bias, best first, of the kept groups, [T, K].
    fn choose(&self, scores: &Value, bias_e: Option<&Tensor>) -> Result<Value, Refusal> {
        let (torch, RouteRule { choices, groups, groups_kept, .. }) = (self.torch, self.rule);
        let bias = bias_e.map(|bias| torch.floats(bias)).transpose()?;
        let mut selection = Selection::of(torch, [self.tokens, self.experts], scores, bias.as_ref())?;
        if groups_kept < groups {
            selection = selection.keep_groups(groups, groups_kept)?;
        }
        let chosen = selection.take_largest(choices)?;
        torch.aten().cat(&chosen.iter().collect::<Vec<_>>(), 1)
    }

    /// The weights [T, K], their shares of the chosen scores [T, K], and what these were divided by [T, 1].
    pub(super) fn weigh(
        &self,
        scores: &Value,
        experts: &Value,
    ) -> Result<(Value, Value, Option<Value>), Refusal> {
        let (torch, aten) = (self.torch, self.torch.aten());
        let chosen = aten.gather(scores, 1, experts, false)?;
        let scale = torch.scalar(self.rule.scale)?;
        if !self.rule.renormalise {
            return Ok((aten.mul(&chosen, &scale)?, chosen, None));
        }
        let mut sum = aten.sum(&chosen, Some(&[1]), true, None)?;
        if self.rule.score == Score::Sigmoid {
            // All sigmoids may be 0.
            sum = sum.plus(&torch.scalar(1e-20)?)?;
        }
        let shares = aten.div(&chosen, &sum)?;
        Ok((aten.mul(&shares, &scale)?, shares, Some(sum)))
    }

    /// How often each expert was chosen in each scope, [scopes, E], in f32, which counts exactly up to 16
    /// million.
    fn counts(&self, experts: &Value) -> Result<Value, Refusal> {
        let (torch, aten) = (self.torch, self.torch.aten());
        let chosen = torch.full(&[self.tokens, self.experts], torch.torch.dtypes.f32, 0.0)?;
        let ones = torch.full(&[self.tokens, self.rule.choices as i64], torch.torch.dtypes.f32, 1.0)?;
        aten.scatter_(&chosen, 1, experts, &ones)?;
        aten.sum(&self.by_scope(&chosen)?, Some(&[1]), false, None)
    }

    pub(super) fn by_scope(&self, x: &Value) -> Result<Value, Refusal> {
        x.shaped(&[self.scopes, self.rule.scope_tokens as i64, self.experts], 0)
    }

    /// The balance loss per share of one token for an expert, `E f_e / n`, from the counts.
    pub(super) fn pulls(&self, counts: &Value) -> Result<Value, Refusal> {
        let n = self.rule.scope_tokens as f64;
        let factor = self.experts as f64 / (self.rule.choices as f64 * n * n);
        self.torch.aten().mul(counts, &self.torch.scalar(factor)?)
    }

    /// Each token's scores as a distribution over experts.
    pub(super) fn shares(&self, scores: &Value) -> Result<Value, Refusal> {
        let aten = self.torch.aten();
        match self.rule.score {
            Score::Softmax => aten.mul(scores, &self.torch.scalar(1.0)?),
            Score::Sigmoid => aten.div(scores, &aten.sum(scores, Some(&[1]), true, None)?),
        }
    }

    /// The sum over scopes of the balance loss, and the sum over tokens of logsumexp^2.
    fn losses(&self, logits: &Value, scores: &Value, counts: &Value) -> Result<Value, Refusal> {
        let aten = self.torch.aten();
        let shares = self.shares(scores)?;
        let shares = aten.sum(&self.by_scope(&shares)?, Some(&[1]), false, None)?;
        let all = [self.scopes * self.experts];
        let terms = aten.mul(&shares, &self.pulls(counts)?)?.shaped(&all, 0)?;
        let balance = aten.sum(&terms, Some(&[0]), true, None)?;
        let lse = log_sum_exp(self.torch, logits, 1)?.shaped(&[self.tokens], 0)?;
        let z = aten.sum(&aten.mul(&lse, &lse)?, Some(&[0]), true, None)?;
        aten.cat(&[&balance, &z], 0)
    }
}

/// [T, K] of an i32 tensor.
pub(super) fn chosen(torch: &Torch, experts_tk: &Tensor) -> Result<Value, Refusal> {
    torch.indices(experts_tk, &sizes(experts_tk.shape()))
}
