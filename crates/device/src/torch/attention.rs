//! Causal attention within documents, by the fused operator where there is one: all documents in one call
//! where it takes them so or they are of one length, else one after the other.

use super::attention_composed::{self as composed, Heads};
use super::attention_fused::Fused;
use super::documents::{Documents, Run};
use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, sizes};
use crate::op;
use crate::tensor::Tensor;
use std::sync::Arc;

pub(super) fn attention(torch: &Torch, op: &op::Attention<'_>) -> Result<(), Refusal> {
    let given = Given::of(torch, [op.q_thc, op.k_sgc, op.v_sgc], op.scale, op.starts_t)?;
    if let Some(packed) = given.packed() {
        let (out, lse) = packed.forward(given.tensors, &given.documents, given.scale)?;
        torch.store(op.out_thc, &out)?;
        return torch.strided(op.lse_th, &lse.sizes()?, &[1, op.lse_th.shape()[1] as i64], 0)?.set(&lse);
    }
    for part in given.parts() {
        let (out, lse) = given.forward(part)?;
        part.set_queries(torch, op.out_thc, &out)?;
        part.rows_of(torch, op.lse_th)?.set(&lse)?;
    }
    Ok(())
}

pub(super) fn grad(torch: &Torch, op: &op::AttentionGrad<'_>) -> Result<(), Refusal> {
    let given = Given::of(torch, [op.q_thc, op.k_sgc, op.v_sgc], op.scale, op.starts_t)?;
    let Some(packed) = given.packed() else { return given.backward(op) };
    let saved = [op.d_out_thc, op.out_thc, op.lse_th];
    let found = packed.backward(given.tensors, saved, &given.documents, given.scale)?;
    for (tensor, found) in [op.d_q_thc, op.d_k_sgc, op.d_v_sgc].into_iter().zip(&found) {
        torch.store(tensor, found)?;
    }
    Ok(())
}

/// Documents of one length, one after the other: consecutive queries, of which the i-th of a document sees
/// all but the last `queries - 1 - i` of its keys.
#[derive(Clone, Copy)]
struct Part {
    documents: usize,
    first: usize,
    /// Queries of each document.
    queries: usize,
    first_key: usize,
    /// Keys of each document.
    keys: usize,
}

impl Part {
    /// Whether the fused operators have a mask for it: a square, or a single query that sees everything.
    fn is_plain(self) -> bool {
        self.keys == self.queries || self.queries == 1
    }

    /// Whether the next part continues this one with a document like its own.
    fn is_followed_by(self, next: Part) -> bool {
        (self.queries, self.keys) == (next.queries, next.keys)
            && self.keys == self.queries
            && next.first == self.first + self.documents * self.queries
            && next.first_key == self.first_key + self.documents * self.keys
    }

    /// The part's rows of a tensor like q, heads first: [B, H, t, C].
    fn queries_of(self, torch: &Torch, tensor: &Tensor) -> Result<Value, Refusal> {
        heads_first(torch, tensor, [self.documents, self.first, self.queries])
    }

    /// The part's rows of a tensor like k: [B, G, s, C].
    fn keys_of(self, torch: &Torch, tensor: &Tensor) -> Result<Value, Refusal> {
        heads_first(torch, tensor, [self.documents, self.first_key, self.keys])
    }

    /// The part's rows of a tensor like lse: [B, H, t].
    fn rows_of(self, torch: &Torch, tensor: &Tensor) -> Result<Value, Refusal> {
        let heads = tensor.shape()[1];
        let sizes = sizes(&[self.documents, heads, self.queries]);
        let strides = super::sizes(&[heads * self.queries, 1, heads]);
        torch.strided(tensor, &sizes, &strides, self.first * heads)
    }

    /// Writes the part's rows of a tensor like q, from [B, H, t, C].
    fn set_queries(self, torch: &Torch, tensor: &Tensor, from: &Value) -> Result<(), Refusal> {
        if self.documents * self.queries == tensor.shape()[0] {
            return torch.store(tensor, &from.transposed(1, 2)?);
        }
        self.queries_of(torch, tensor)?.set(from)
    }

    /// Writes the part's rows of a tensor like k, from [B, G, s, C].
    fn set_keys(self, torch: &Torch, tensor: &Tensor, from: &Value) -> Result<(), Refusal> {
        if self.documents * self.keys == tensor.shape()[0] {
            return torch.store(tensor, &from.transposed(1, 2)?);
        }
        self.keys_of(torch, tensor)?.set(from)
    }
}

/// `rows` rows of each of some documents of [T, H, C] as [documents, H, rows, C].
fn heads_first(torch: &Torch, tensor: &Tensor, at: [usize; 3]) -> Result<Value, Refusal> {
    let ([_, heads, width], [documents, first, rows]) = (tensor.dims(), at);
    let sizes = sizes(&[documents, heads, rows, width]);
    let strides = super::sizes(&[heads * width * rows, width, heads * width, 1]);
    torch.strided(tensor, &sizes, &strides, first * heads * width)
}

/// The operands of both directions.
struct Given<'a> {
    torch: &'a Torch,
    /// q, k and v.
    tensors: [&'a Tensor; 3],
    scale: f64,
    documents: Arc<Documents>,
    /// The fused operator, if there is one that takes heads as these are.
    fused: Option<&'a Fused>,
}

impl<'a> Given<'a> {
    fn of(
        torch: &'a Torch,
        tensors: [&'a Tensor; 3],
        scale: f64,
        starts_t: &Tensor,
    ) -> Result<Given<'a>, Refusal> {
        let documents = torch.documents(starts_t, tensors[1].shape()[0])?;
        let fused = torch.routes.attention.found().filter(|fused| fused.takes(torch, tensors));
        Ok(Given { torch, tensors, scale, documents, fused })
    }

    /// The operator for documents of any lengths in one call, if the device has it and these want it.
    fn packed(&self) -> Option<super::attention_packed::Packed<'a>> {
        let lengths = self.documents.runs.windows(2).any(|pair| pair[0].queries != pair[1].queries);
        let is_needed = lengths && self.documents.are_whole();
        self.fused.filter(|_| is_needed)?.packed(self.torch)
    }

    fn is_fused(&self, part: Part) -> bool {
        part.is_plain() && self.fused.is_some()
    }

    fn heads(&self, part: Part) -> Result<Heads<'a>, Refusal> {
        let Given { torch, tensors: [q, k, v], scale, .. } = *self;
        let Part { documents, queries, keys, .. } = part;
        let (heads, kv_heads, width, kind) = (q.shape()[1], k.shape()[1], q.shape()[2], q.kind());
        let [q, k, v] = [part.queries_of(torch, q)?, part.keys_of(torch, k)?, part.keys_of(torch, v)?];
        Ok(Heads { torch, kind, q, k, v, documents, heads, kv_heads, queries, keys, width, scale })
    }

    /// The output, and the logarithm of each softmax's denominator.
    fn forward(&self, part: Part) -> Result<(Value, Value), Refusal> {
        let heads = self.heads(part)?;
        match self.fused.filter(|_| self.is_fused(part)) {
            Some(fused) => fused.forward(&heads),
            None => composed::forward(&heads),
        }
    }

    fn backward(&self, op: &op::AttentionGrad<'_>) -> Result<(), Refusal> {
        let (torch, parts) = (self.torch, self.parts());
        let end = |part: &Part| part.first_key + part.documents * part.keys;
        let apart = parts.windows(2).all(|pair| end(&pair[0]) <= pair[1].first_key);
        // Gradients that several parts add to are rounded once, at the end.
        let sums = if apart { None } else { Some([self.zeros(op.d_k_sgc)?, self.zeros(op.d_v_sgc)?]) };
        for part in parts {
            let (heads, d_out) = (self.heads(part)?, part.queries_of(torch, op.d_out_thc)?);
            let (d_queries, d_keys, d_values) = match self.fused.filter(|_| self.is_fused(part)) {
                Some(fused) => {
                    let (out, lse) = (part.queries_of(torch, op.out_thc)?, part.rows_of(torch, op.lse_th)?);
                    fused.backward(&heads, &d_out, (&out, &lse))?
                }
                None => composed::backward(&heads, &d_out)?,
            };
            part.set_queries(torch, op.d_q_thc, &d_queries)?;
            match &sums {
                None => {
                    part.set_keys(torch, op.d_k_sgc, &d_keys)?;
                    part.set_keys(torch, op.d_v_sgc, &d_values)?;
                }
                Some(sums) => {
                    for (sum, found) in sums.iter().zip([&d_keys, &d_values]) {
                        torch.accumulate(&self.keys_of(sum, part)?, found)?;
                    }
                }
            }
        }
        if let Some([d_k, d_v]) = &sums {
            torch.floats(op.d_k_sgc)?.set(d_k)?;
            torch.floats(op.d_v_sgc)?.set(d_v)?;
        }
        Ok(())
    }

    fn zeros(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        self.torch.full(&sizes(tensor.shape()), self.torch.torch.dtypes.f32, 0.0)
    }

    /// The part's rows of sums like k, of one document: [1, G, s, C].
    fn keys_of(&self, sums: &Value, part: Part) -> Result<Value, Refusal> {
        let [_, kv_heads, width] = self.tensors[1].dims();
        let strides = sizes(&[kv_heads * width * part.keys, width, kv_heads * width, 1]);
        let sizes = sizes(&[part.documents, kv_heads, part.keys, width]);
        sums.strided(&sizes, &strides, part.first_key * kv_heads * width)
    }

    /// Runs of equal starts, cut where their scores would take too much memory; documents of one length that
    /// the fused operator takes are one part.
    fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = vec![];
        for &run in &self.documents.runs {
            for part in self.cut(run) {
                match parts.last_mut() {
                    Some(last) if last.is_followed_by(part) && self.is_fused(part) => last.documents += 1,
                    _ => parts.push(part),
                }
            }
        }
        parts
    }

    fn cut(&self, run: Run) -> Vec<Part> {
        let Run { first, queries, first_key } = run;
        let last_key = |query: usize| self.documents.earlier + query;
        let whole =
            Part { documents: 1, first, queries, first_key, keys: last_key(first + queries) - first_key };
        if self.is_fused(whole) {
            return vec![whole];
        }
        let heads = self.tensors[0].shape()[1];
        let mut parts: Vec<Part> = vec![];
        for query in first..first + queries {
            let keys = last_key(query) + 1 - first_key;
            match parts.last_mut() {
                Some(part) if heads * (part.queries + 1) * keys <= composed::MOST_SCORES => {
                    part.queries += 1;
                    part.keys = keys;
                }
                _ => parts.push(Part { documents: 1, first: query, queries: 1, first_key, keys }),
            }
        }
        parts
    }
}
