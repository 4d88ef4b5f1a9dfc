//! Causal attention within documents, a document at a time, by the fused operator where there is one.

use super::attention_composed::{self as composed, Heads};
use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, sizes};
use crate::op;
use crate::tensor::Tensor;

pub(super) fn attention(torch: &Torch, op: &op::Attention<'_>) -> Result<(), Refusal> {
    let given = Given { torch, tensors: [op.q_thc, op.k_sgc, op.v_sgc], scale: op.scale };
    for part in given.parts(op.starts_t)? {
        let (out, lse) = given.forward(part)?;
        part.queries_of(torch, op.out_thc)?.set(&out)?;
        part.rows_of(torch, op.lse_th)?.set(&lse)?;
    }
    Ok(())
}

pub(super) fn grad(torch: &Torch, op: &op::AttentionGrad<'_>) -> Result<(), Refusal> {
    let given = Given { torch, tensors: [op.q_thc, op.k_sgc, op.v_sgc], scale: op.scale };
    given.backward(op)
}

/// Consecutive queries that see the keys from one on: the i-th of them sees all but the last
/// `queries - 1 - i`.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    queries: usize,
    first_key: usize,
    keys: usize,
}

impl Part {
    /// Whether the fused operators have a mask for it: a square, or a single query that sees everything.
    fn is_plain(self) -> bool {
        self.keys == self.queries || self.queries == 1
    }

    /// The part's rows of a tensor like q, heads first: [1, H, t, C].
    fn queries_of(self, torch: &Torch, tensor: &Tensor) -> Result<Value, Refusal> {
        heads_first(torch, tensor, self.first, self.queries)
    }

    /// The part's rows of a tensor like k: [1, G, s, C].
    fn keys_of(self, torch: &Torch, tensor: &Tensor) -> Result<Value, Refusal> {
        heads_first(torch, tensor, self.first_key, self.keys)
    }

    /// The part's rows of a tensor like lse: [1, H, t].
    fn rows_of(self, torch: &Torch, tensor: &Tensor) -> Result<Value, Refusal> {
        let heads = tensor.shape()[1];
        let row = [1, heads as i64, self.queries as i64];
        torch.strided(tensor, &row, &[1, 1, heads as i64], self.first * heads)
    }
}

/// Rows of [T, H, C] as [1, H, rows, C].
fn heads_first(torch: &Torch, tensor: &Tensor, first: usize, rows: usize) -> Result<Value, Refusal> {
    let [_, heads, width] = tensor.dims();
    let sizes = sizes(&[1, heads, rows, width]);
    let strides = super::sizes(&[heads * width * rows, width, heads * width, 1]);
    torch.strided(tensor, &sizes, &strides, first * heads * width)
}

/// The operands of both directions.
struct Given<'a> {
    torch: &'a Torch,
    /// q, k and v.
    tensors: [&'a Tensor; 3],
    scale: f64,
}

impl<'a> Given<'a> {
    fn is_fused(&self, part: Part) -> bool {
        let takes = |fused: &super::attention_fused::Fused| fused.takes(self.torch, self.tensors);
        part.is_plain() && self.torch.routes.attention.found().is_some_and(takes)
    }

    fn heads(&self, part: Part) -> Result<Heads<'a>, Refusal> {
        let Given { torch, tensors: [q, k, v], scale } = *self;
        let Part { queries, keys, .. } = part;
        let (heads, kv_heads, width) = (q.shape()[1], k.shape()[1], q.shape()[2]);
        let [q, k, v] = [part.queries_of(torch, q)?, part.keys_of(torch, k)?, part.keys_of(torch, v)?];
        Ok(Heads { torch, q, k, v, heads, kv_heads, queries, keys, width, scale })
    }

    /// The output, and the logarithm of each softmax's denominator.
    fn forward(&self, part: Part) -> Result<(Value, Value), Refusal> {
        let heads = self.heads(part)?;
        match self.torch.routes.attention.found().filter(|_| self.is_fused(part)) {
            Some(fused) => fused.forward(&heads),
            None => composed::forward(&heads),
        }
    }

    fn backward(&self, op: &op::AttentionGrad<'_>) -> Result<(), Refusal> {
        let (torch, d_k, d_v) = (self.torch, op.d_k_sgc, op.d_v_sgc);
        let parts = self.parts(op.starts_t)?;
        let apart = parts.windows(2).all(|pair| pair[0].first_key + pair[0].keys <= pair[1].first_key);
        if !apart {
            torch.floats(d_k)?.fill(0.0)?;
            torch.floats(d_v)?.fill(0.0)?;
        }
        for part in parts {
            let (heads, d_out) = (self.heads(part)?, part.queries_of(torch, op.d_out_thc)?);
            let fused = torch.routes.attention.found().filter(|_| self.is_fused(part));
            let (d_queries, d_keys, d_values) = match fused {
                Some(fused) => {
                    let (out, lse) = (part.queries_of(torch, op.out_thc)?, part.rows_of(torch, op.lse_th)?);
                    fused.backward(&heads, &d_out, (&out, &lse))?
                }
                None => composed::backward(&heads, &d_out)?,
            };
            part.queries_of(torch, op.d_q_thc)?.set(&d_queries)?;
            for (tensor, found) in [(d_k, &d_keys), (d_v, &d_values)] {
                let out = part.keys_of(torch, tensor)?;
                if apart { out.set(found)? } else { torch.accumulate(&out, found)? }
            }
        }
        Ok(())
    }

    /// Queries of equal starts are one part, cut where its scores would take too much memory. Starts are read
    /// from the device: each query sees at least itself.
    fn parts(&self, starts_t: &Tensor) -> Result<Vec<Part>, Refusal> {
        let starts = self.torch.integers(starts_t)?;
        let earlier = self.tensors[1].shape()[0] - starts.len();
        let mut parts: Vec<Part> = vec![];
        for (t, &start) in starts.iter().enumerate() {
            let own = earlier + t;
            let first_key = usize::try_from(start).ok().filter(|&start| start <= own);
            let first_key = first_key
                .ok_or_else(|| format!("the start of query {t} is {start}, but must be 0 to {own}"))?;
            let keys = own + 1 - first_key;
            match parts.last_mut() {
                Some(part) if part.first_key == first_key && self.has_room(*part, keys) => {
                    part.queries += 1;
                    part.keys = keys;
                }
                _ => parts.push(Part { first: t, queries: 1, first_key, keys }),
            }
        }
        Ok(parts)
    }

    /// Whether a part may take one more query, which sees `keys` keys.
    fn has_room(&self, part: Part, keys: usize) -> bool {
        let longer = Part { queries: part.queries + 1, keys, ..part };
        let heads = self.tensors[0].shape()[1];
        self.is_fused(longer) || heads * longer.queries * keys <= composed::MOST_SCORES
    }
}
