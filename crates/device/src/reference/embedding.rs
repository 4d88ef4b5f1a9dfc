//! Rows of a table, looked up by token.

use super::operands::{floats, integers, store, width};
use crate::op::{Embedding, EmbeddingGrad};

pub(super) fn embedding(op: &Embedding<'_>) {
    store(op.out_td, &forward(&floats(op.table_vd), &integers(op.tokens_t), width(op.table_vd)));
}

pub(super) fn embedding_grad(op: &EmbeddingGrad<'_>) {
    let mut d_table = floats(op.d_table_vd);
    backward(&floats(op.d_out_td), &integers(op.tokens_t), width(op.d_out_td), &mut d_table);
    store(op.d_table_vd, &d_table);
}

/// `out[t] = table[tokens[t]]`, rows of width d.
fn forward(table: &[f64], tokens: &[i32], d: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(tokens.len() * d);
    for &token in tokens {
        let token = token as usize;
        out.extend_from_slice(&table[token * d..(token + 1) * d]);
    }
    out
}

/// Adds `d_out[t]` to `d_table[tokens[t]]`, in order of t.
fn backward(d_out: &[f64], tokens: &[i32], d: usize, d_table: &mut [f64]) {
    for (t, &token) in tokens.iter().enumerate() {
        for i in 0..d {
            d_table[token as usize * d + i] += d_out[t * d + i];
        }
    }
}
