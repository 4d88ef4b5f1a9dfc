//! Causal attention within documents (Vaswani et al., arXiv 1706.03762, equation 1; grouped heads: arXiv
//! 2305.13245).

use super::operands::{floats, integers, rounded, store};
use super::route::log_sum_exp;
use crate::op;
use crate::precision::{Precision, operand};
use crate::tensor::Tensor;

pub(super) fn attention(op: &op::Attention<'_>, precision: Precision) {
    let (out, lse) =
        Attention::of([op.q_thc, op.k_sgc, op.v_sgc], op.starts_t, op.scale, precision).forward();
    store(op.out_thc, &out);
    store(op.lse_th, &lse);
}

/// Computes the softmax again, so it has no use for `out_thc` and `lse_th`.
pub(super) fn attention_grad(op: &op::AttentionGrad<'_>, precision: Precision) {
    let attention = Attention::of([op.q_thc, op.k_sgc, op.v_sgc], op.starts_t, op.scale, precision);
    let [d_q, d_k, d_v] = attention.backward(&floats(op.d_out_thc));
    store(op.d_q_thc, &d_q);
    store(op.d_k_sgc, &d_k);
    store(op.d_v_sgc, &d_v);
}

/// The operands of attention: q `[T, H, C]`, k and v `[S, G, C]`, and the first key that each query may see.
struct Attention {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    starts: Vec<i32>,
    scale: f64,
    heads: usize,
    kv_heads: usize,
    width: usize,
    /// q, k and v are rounded already; the weights and their gradients, operands too, are rounded here.
    precision: Precision,
}

impl Attention {
    fn of([q, k, v]: [&Tensor; 3], starts: &Tensor, scale: f64, precision: Precision) -> Attention {
        let ([_, heads, width], [_, kv_heads, _]) = (q.dims(), k.dims());
        let [q, k, v] = [q, k, v].map(|tensor| rounded(tensor, precision));
        Attention { q, k, v, starts: integers(starts), scale, heads, kv_heads, width, precision }
    }

    /// `out[t,h] = sum over s of p_s v[s,g]` with `p = softmax(z)`, `z_s = scale q[t,h] . k[s,g]`, and
    /// `lse[t,h] = log sum exp(z)`; s runs over the keys that t sees, and g is h's kv head.
    fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        let tokens = self.starts.len();
        let (mut out, mut lse) = (vec![0.0; self.q.len()], vec![0.0; tokens * self.heads]);
        for t in 0..tokens {
            for h in 0..self.heads {
                let query = t * self.heads + h;
                let scores = self.scores(t, h);
                lse[query] = log_sum_exp(&scores);
                for (s, score) in self.seen(t).zip(scores) {
                    let key = self.key(s, h);
                    let p = operand(self.precision, (score - lse[query]).exp());
                    for c in 0..self.width {
                        out[query * self.width + c] += p * self.v[key * self.width + c];
                    }
                }
            }
        }
        (out, lse)
    }

    /// The gradients by q, k and v. The softmax's Jacobian is `dp_s/dz_u = p_s (delta_su - p_u)`, so with
    /// `d_p_s = d_out . v_s`: `d_z_s = p_s (d_p_s - sum over u of p_u d_p_u)`; then `d_q += scale d_z_s k_s`,
    /// `d_k_s += scale d_z_s q` and `d_v_s += p_s d_out`.
    fn backward(&self, d_out: &[f64]) -> [Vec<f64>; 3] {
        let width = self.width;
        let d_out: Vec<f64> = d_out.iter().map(|&x| operand(self.precision, x)).collect();
        let mut d_q = vec![0.0; self.q.len()];
        let (mut d_k, mut d_v) = (vec![0.0; self.k.len()], vec![0.0; self.v.len()]);
        for t in 0..self.starts.len() {
            for h in 0..self.heads {
                let query = (t * self.heads + h) * width;
                let d_out = &d_out[query..query + width];
                let scores = self.scores(t, h);
                let lse = log_sum_exp(&scores);
                let p: Vec<f64> = scores.iter().map(|score| (score - lse).exp()).collect();
                let d_p: Vec<f64> = self.seen(t).map(|s| dot(d_out, self.row(&self.v, s, h))).collect();
                let mean = dot(&p, &d_p);
                for (i, s) in self.seen(t).enumerate() {
                    let d_z = operand(self.precision, p[i] * (d_p[i] - mean));
                    let p = operand(self.precision, p[i]);
                    let key = self.key(s, h) * width;
                    for c in 0..width {
                        d_q[query + c] += self.scale * d_z * self.k[key + c];
                        d_k[key + c] += self.scale * d_z * self.q[query + c];
                        d_v[key + c] += p * d_out[c];
                    }
                }
            }
        }
        [d_q, d_k, d_v]
    }

    /// The keys that query t sees: from its document's first to its own, the queries being the last T keys.
    fn seen(&self, t: usize) -> std::ops::RangeInclusive<usize> {
        let keys = self.k.len() / (self.kv_heads * self.width);
        self.starts[t] as usize..=keys - self.starts.len() + t
    }

    /// The scaled scores of query t of head h, for each key it sees.
    fn scores(&self, t: usize, h: usize) -> Vec<f64> {
        let first = (t * self.heads + h) * self.width;
        let query = &self.q[first..first + self.width];
        self.seen(t).map(|s| self.scale * dot(query, self.row(&self.k, s, h))).collect()
    }

    /// The index of key s for query head h among the rows of k and v.
    fn key(&self, s: usize, h: usize) -> usize {
        s * self.kv_heads + h / (self.heads / self.kv_heads)
    }

    fn row<'b>(&self, rows: &'b [f64], s: usize, h: usize) -> &'b [f64] {
        let first = self.key(s, h) * self.width;
        &rows[first..first + self.width]
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
