//! Attention out of products and a softmax, for devices without a fused operator, and for queries that the
//! fused ones do not take.

use super::refusal::Refusal;
use super::sums::log_sum_exp;
use super::value::Value;
use super::{Torch, aten::Dtype, sizes};
use crate::precision::Precision;
use crate::tensor::Kind;

/// Most scores that exist at a time.
pub(super) const MOST_SCORES: usize = 1 << 24;

/// The operands of one document, or of B of one length, heads first: q [B, H, t, C], k and v [B, G, s, C],
/// perhaps views.
pub(super) struct Heads<'a> {
    pub(super) torch: &'a Torch,
    /// The kind of q, k and v, and of the gradient by the output.
    pub(super) kind: Kind,
    pub(super) documents: usize,
    pub(super) q: Value,
    pub(super) k: Value,
    pub(super) v: Value,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
    pub(super) scale: f64,
}

/// The output of one document as [1, H, t, C], and the logarithm of each softmax's denominator as [1, H, t].
pub(super) fn forward(given: &Heads<'_>) -> Result<(Value, Value), Refusal> {
    let rows = Rows::of(given);
    let scores = rows.scores()?;
    let aten = given.torch.aten();
    let lse = log_sum_exp(given.torch, &scores, 2)?.shaped(&sizes(&[1, given.heads, given.queries]), 0)?;
    let shares = rows.operand(&aten.softmax(&scores, 2, false)?, &[rows.groups, rows.queries, rows.keys])?;
    let out = rows.product(&shares, &rows.keys_of(&given.v)?, [rows.queries, rows.width])?;
    Ok((rows.heads_first(&out)?, lse))
}

/// The gradients by one document's queries [1, H, t, C], keys and values [1, G, s, C].
pub(super) fn backward(given: &Heads<'_>, d_out: &Value) -> Result<(Value, Value, Value), Refusal> {
    let rows = Rows::of(given);
    let Rows { torch, groups, queries, keys, width, .. } = rows;
    let aten = torch.aten();
    let [q, d_out] = [rows.queries_of(&given.q)?, rows.queries_of(d_out)?];
    let [k, v] = [rows.keys_of(&given.k)?, rows.keys_of(&given.v)?];
    let shares = aten.softmax(&rows.scores()?, 2, false)?;
    let of_scores = [groups, queries, keys];
    let flipped = |x: &Value, [n, k]: [i64; 2]| x.strided(&[groups, k, n], &[n * k, 1, k], 0);
    let rounded = rows.operand(&shares, &of_scores)?;
    let d_values = rows.product(&flipped(&rounded, [queries, keys])?, &d_out, [keys, width])?;
    let d_shares = rows.product(&d_out, &flipped(&v, [keys, width])?, [queries, keys])?;
    let d_scores = aten.softmax_backward(&d_shares, &shares, 2, Dtype(torch.torch.dtypes.f32))?;
    let d_scores = rows.operand(&d_scores, &of_scores)?;
    let scale = torch.scalar(given.scale)?;
    let d_queries = rows.product(&d_scores, &k, [queries, width])?;
    let d_keys = rows.product(&flipped(&d_scores, [queries, keys])?, &q, [keys, width])?;
    let keys_first = |x: &Value| x.shaped(&[1, groups, keys, width], 0);
    Ok((
        rows.heads_first(&aten.mul_(&d_queries, &scale)?)?,
        keys_first(&aten.mul_(&d_keys, &scale)?)?,
        keys_first(&d_values)?,
    ))
}

/// A part as batched products see it: one batch per kv head, the query heads that read it one after the
/// other.
#[derive(Clone, Copy)]
struct Rows<'a> {
    torch: &'a Torch,
    given: &'a Heads<'a>,
    groups: i64,
    /// Query heads of one kv head, times queries.
    queries: i64,
    keys: i64,
    width: i64,
}

impl<'a> Rows<'a> {
    fn of(given: &'a Heads<'a>) -> Rows<'a> {
        let queries = given.heads / given.kv_heads * given.queries;
        let [groups, queries, keys, width] =
            [given.kv_heads, queries, given.keys, given.width].map(|size| size as i64);
        Rows { torch: given.torch, given, groups, queries, keys, width }
    }

    /// [G, H/G t, C], dense, as an operand.
    fn queries_of(&self, x: &Value) -> Result<Value, Refusal> {
        let dense = [1, self.given.heads as i64, self.given.queries as i64, self.width];
        self.operand(x, &dense)?.shaped(&[self.groups, self.queries, self.width], 0)
    }

    /// [G, s, C], dense, as an operand.
    fn keys_of(&self, x: &Value) -> Result<Value, Refusal> {
        let dense = [1, self.groups, self.keys, self.width];
        self.operand(x, &dense)?.shaped(&dense[1..], 0)
    }

    /// A dense copy, rounded to the precision of products.
    fn operand(&self, x: &Value, sizes: &[i64]) -> Result<Value, Refusal> {
        let torch = self.torch;
        let dtypes = torch.torch.dtypes;
        if torch.options.precision == Precision::F32 {
            return torch.converted(x, sizes, dtypes.f32);
        }
        let rounded = torch.converted(x, sizes, dtypes.bf16)?;
        if torch.on_cpu() { torch.converted(&rounded, sizes, dtypes.f32) } else { Ok(rounded) }
    }

    /// The batches' products, [G, n, m], in f32.
    fn product(&self, a: &Value, b: &Value, [n, m]: [i64; 2]) -> Result<Value, Refusal> {
        let product = self.torch.aten().bmm(a, b)?;
        if self.torch.options.precision == Precision::F32 || self.torch.on_cpu() {
            return Ok(product);
        }
        self.torch.converted(&product, &[self.groups, n, m], self.torch.torch.dtypes.f32)
    }

    /// The scaled scores, [G, H/G t, s], those of keys that a query does not see minus infinity.
    fn scores(&self) -> Result<Value, Refusal> {
        let (torch, aten) = (self.torch, self.torch.aten());
        let k = self.keys_of(&self.given.k)?;
        let flipped =
            k.strided(&[self.groups, self.width, self.keys], &[self.keys * self.width, 1, self.width], 0)?;
        let q = self.queries_of(&self.given.q)?;
        let scores = self.product(&q, &flipped, [self.queries, self.keys])?;
        let scores = aten.mul_(&scores, &torch.scalar(self.given.scale)?)?;
        if self.given.queries == 1 {
            return Ok(scores);
        }
        let (t, s) = (self.given.queries as i64, self.keys);
        let ones = torch.full(&[t, s], torch.torch.dtypes.f32, 1.0)?;
        let seen = aten.gt(&aten.tril(&ones, s - t)?, &torch.scalar(0.0)?)?;
        let by_head = scores.shaped(&[self.given.heads as i64, t, s], 0)?;
        let unseen = torch.scalar(f64::NEG_INFINITY)?;
        aten.where_(&seen, &by_head, &unseen)?.shaped(&[self.groups, self.queries, s], 0)
    }

    /// Back to [1, H, t, C].
    fn heads_first(&self, x: &Value) -> Result<Value, Refusal> {
        x.shaped(&[1, self.given.heads as i64, self.given.queries as i64, self.width], 0)
    }
}
