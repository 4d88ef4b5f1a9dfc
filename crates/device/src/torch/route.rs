//! Routing: scores, the choice of experts, their weights and losses.

use super::sums::log_sum_exp;
use super::value::{Value, Words};
use super::{Torch, sizes};
use crate::op::{Op, RouteRule};
use crate::tensor::Tensor;
use lingot_spec::Score;

pub(super) fn route(torch: &Torch, op: Op<'_>) -> Result<(), Words> {
    let Op::Route { logits_te, bias_e, rule, experts_tk, weights_tk, counts_ge, loads_e, losses_2 } = op
    else {
        unreachable!("another file's op")
    };
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
pub(super) fn warm(
    torch: &Torch,
    logits_te: &Tensor,
    noise_te: &Tensor,
    [keep, mean, deviation]: [f64; 3],
) -> Result<(), Words> {
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

    pub(super) fn scores(&self, logits: &Value) -> Result<Value, Words> {
        match self.rule.score {
            Score::Softmax => self.torch.aten().softmax(logits, 1, false),
            Score::Sigmoid => self.torch.aten().sigmoid(logits),
        }
    }

    /// The K experts of the largest score + bias, best first, of the kept groups, [T, K]. Sums are taken in f64 where the
    /// device has it, so that rounding them makes no ties; of ties the first wins.
    fn choose(&self, scores: &Value, bias_e: Option<&Tensor>) -> Result<Value, Words> {
        let torch = self.torch;
        let dtype = if torch.has_f64 { torch.torch.dtypes.f64 } else { torch.torch.dtypes.f32 };
        let mut selection = torch.converted(scores, &[self.tokens, self.experts], dtype)?;
        if let Some(bias) = bias_e {
            selection = selection.plus(&torch.converted(&torch.floats(bias)?, &[self.experts], dtype)?)?;
        }
        selection = self.below_all_if_nan(&selection)?;
        if self.rule.groups_kept < self.rule.groups {
            selection = self.of_kept_groups(&selection)?;
        }
        let chosen = self.take_largest(&selection, self.rule.choices)?;
        torch.aten().cat(&chosen.iter().collect::<Vec<_>>(), 1)
    }

    /// What is not a number, and minus infinity, become the lowest number: only what is excluded lies below it.
    fn below_all_if_nan(&self, x: &Value) -> Result<Value, Words> {
        let lowest = Some(self.lowest());
        self.torch.aten().nan_to_num(x, lowest, None, lowest)
    }

    fn lowest(&self) -> f64 {
        if self.torch.has_f64 { f64::MIN } else { f64::from(f32::MIN) }
    }

    fn excluded(&self) -> Result<Value, Words> {
        if self.torch.has_f64 {
            Value::f64(self.torch.torch, f64::NEG_INFINITY)
        } else {
            self.torch.scalar(f64::NEG_INFINITY)
        }
    }

    /// The places of the `count` largest of each row, best first, the first of equals, each [rows, 1]. Their values
    /// become minus infinity.
    fn take_largest(&self, values: &Value, count: usize) -> Result<Vec<Value>, Words> {
        let aten = self.torch.aten();
        (0..count)
            .map(|_| {
                let (best, place) = aten.max(values, 1, true)?;
                best.fill(f64::NEG_INFINITY)?;
                aten.scatter_(values, 1, &place, &best)?;
                Ok(place)
            })
            .collect()
    }

    /// The selection, minus infinity in all groups but those whose two best experts have the largest sums.
    fn of_kept_groups(&self, selection: &Value) -> Result<Value, Words> {
        let aten = self.torch.aten();
        let (groups, size) = (self.rule.groups as i64, self.experts / self.rule.groups as i64);
        let (best, place) = aten.max(&selection.shaped(&[self.tokens * groups, size], 0)?, 1, true)?;
        let mut sums = best;
        if size > 1 {
            let rows = selection.shaped(&[self.tokens * groups, size], 0)?;
            let none = aten.mul(&sums, &self.torch.scalar(0.0)?)?;
            none.fill(f64::NEG_INFINITY)?;
            let second = aten.amax(&aten.scatter(&rows, 1, &place, &none)?, &[1], true)?;
            sums = self.below_all_if_nan(&sums.plus(&second)?)?;
        }
        let sums = sums.shaped(&[self.tokens, groups], 0)?;
        self.take_largest(&sums, self.rule.groups_kept)?;
        let kept = aten.eq(&sums, &self.excluded()?)?.shaped(&[self.tokens, groups, 1], 0)?;
        let by_group = selection.shaped(&[self.tokens, groups, size], 0)?;
        aten.where_(&kept, &by_group, &self.excluded()?)?.shaped(&[self.tokens, self.experts], 0)
    }

    /// The weights [T, K], their shares of the chosen scores [T, K], and what these were divided by [T, 1].
    pub(super) fn weigh(
        &self,
        scores: &Value,
        experts: &Value,
    ) -> Result<(Value, Value, Option<Value>), Words> {
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

    /// How often each expert was chosen in each scope, [scopes, E], in f32, which counts exactly up to 16 million.
    fn counts(&self, experts: &Value) -> Result<Value, Words> {
        let (torch, aten) = (self.torch, self.torch.aten());
        let chosen = torch.full(&[self.tokens, self.experts], torch.torch.dtypes.f32, 0.0)?;
        let ones = torch.full(&[self.tokens, self.rule.choices as i64], torch.torch.dtypes.f32, 1.0)?;
        aten.scatter_(&chosen, 1, experts, &ones)?;
        aten.sum(&self.by_scope(&chosen)?, Some(&[1]), false, None)
    }

    pub(super) fn by_scope(&self, x: &Value) -> Result<Value, Words> {
        x.shaped(&[self.scopes, self.rule.scope_tokens as i64, self.experts], 0)
    }

    /// The balance loss per share of one token for an expert, `E f_e / n`, from the counts.
    pub(super) fn pulls(&self, counts: &Value) -> Result<Value, Words> {
        let n = self.rule.scope_tokens as f64;
        let factor = self.experts as f64 / (self.rule.choices as f64 * n * n);
        self.torch.aten().mul(counts, &self.torch.scalar(factor)?)
    }

    /// Each token's scores as a distribution over experts.
    pub(super) fn shares(&self, scores: &Value) -> Result<Value, Words> {
        let aten = self.torch.aten();
        match self.rule.score {
            Score::Softmax => aten.mul(scores, &self.torch.scalar(1.0)?),
            Score::Sigmoid => aten.div(scores, &aten.sum(scores, Some(&[1]), true, None)?),
        }
    }

    /// The sum over scopes of the balance loss, and the sum over tokens of logsumexp^2.
    fn losses(&self, logits: &Value, scores: &Value, counts: &Value) -> Result<Value, Words> {
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
pub(super) fn chosen(torch: &Torch, experts_tk: &Tensor) -> Result<Value, Words> {
    torch.indices(experts_tk, &sizes(experts_tk.shape()))
}
