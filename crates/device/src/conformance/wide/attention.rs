//! Attention over long documents, at some queries of all heads and some keys of one kv head.
//!
//! The definition is that of `reference/attention.rs`, a query at a time: gradients by a key need the softmax
//! of every later query of its heads, so one kv head has to do.

use super::products::{case, seed};
use super::sampled::{Drawn, Elements, dot, each, log_sum_exp};
use super::{AttentionShape, SampledCase, SampledOutput};
use crate::conformance::random::Random;
use crate::op::Attention;
use crate::ops;
use crate::tensor::Kind;

/// One in this many consecutive queries or keys is checked.
const STRIDE: usize = 16;
/// Multiply-adds that the queries checked in one case may cost.
const WORK: usize = 1 << 31;

/// Pieces that the queries of a kv head are summed in, in this order on every machine.
const PIECES: usize = 64;

/// The operands, and what is checked.
#[derive(Clone)]
struct Long {
    q: Drawn,
    k: Drawn,
    v: Drawn,
    d_out: Drawn,
    shape: AttentionShape,
    /// The first key that each query sees.
    starts: Vec<usize>,
    /// Token and head, as token x heads + head.
    queries: Vec<usize>,
    /// Tokens whose keys are checked.
    keys: Vec<usize>,
    /// The kv head of these keys.
    kv_head: usize,
    /// Channels that are checked of a query or a key.
    channels: Vec<usize>,
}

/// A query's softmax over the keys that it sees.
struct Softmax {
    lse: f64,
    p: Vec<f64>,
    /// The gradient by each scaled score.
    d_scores: Vec<f64>,
    d_out: Vec<f64>,
}

/// Attention and its gradient over documents that fill `shape.tokens`.
pub(super) fn attention(shape: AttentionShape, kind: Kind) -> SampledCase {
    let AttentionShape { tokens: t, heads: h, kv_heads: g, width: c, document } = shape;
    let label = format!("t {t} h {h} g {g} c {c} documents of {document}");
    let mut random = Random::new(seed(&label));
    let [q, k, v, d_out] = [(); 4].map(|()| Drawn::new(&mut random, 1.0, kind));
    let starts: Vec<usize> = (0..t).map(|token| token / document * document).collect();
    let work = h * t * document * 3 * c / 2;
    let stride = STRIDE.max(work.div_ceil(WORK)).min(t * h);
    let mut queries = one_of_each(t * h, stride, &mut random);
    queries.push(t * h - 1);
    let mut keys = one_of_each(t, STRIDE.min(t), &mut random);
    keys.push(t - 1);
    let channels = one_of_each(c, 8.min(c), &mut random);
    let kv_head = random.below(g);
    let long = Long { q, k, v, d_out, shape, starts, queries, keys, kv_head, channels };
    let on_host = long.clone();
    let run = move |device: &crate::device::Device| {
        let (q, d_out) = (long.q.on(device, &[t, h, c])?, long.d_out.on(device, &[t, h, c])?);
        let (k, v) = (long.k.on(device, &[t, g, c])?, long.v.on(device, &[t, g, c])?);
        let starts: Vec<i32> = long.starts.iter().map(|&start| start as i32).collect();
        let starts = device.integers(&starts, &[t])?;
        let scale = long.scale();
        let attended = ops::attention(&q, &k, &v, &starts, scale)?;
        let [d_q, d_k, d_v] = ops::attention_grad(&d_out, [&q, &k, &v], &starts, scale, &attended)?;
        Ok(vec![attended.out_thc, attended.lse_th, d_q, d_k, d_v])
    };
    let outputs = on_host.outputs(stride);
    case(Attention::NAME, label, outputs, random.fingerprint(), run, move || on_host.define())
}

/// One random number of each `stride` below `count`.
fn one_of_each(count: usize, stride: usize, random: &mut Random) -> Vec<usize> {
    (0..count).step_by(stride).map(|from| from + random.below(stride.min(count - from))).collect()
}

impl Long {
    fn scale(&self) -> f64 {
        1.0 / (self.shape.width as f64).sqrt()
    }

    fn outputs(&self, stride: usize) -> Vec<SampledOutput> {
        let AttentionShape { tokens, heads, kv_heads, width, document } = self.shape;
        let longest = document.min(tokens);
        let of = |rows: Vec<usize>, stride| {
            let in_row = |row: usize| self.channels.iter().map(move |channel| row * width + channel);
            Elements { indices: rows.into_iter().flat_map(in_row).collect(), cell: [stride, 8.min(width)] }
        };
        let queries = of(self.queries.clone(), stride);
        let lse = Elements { indices: self.queries.clone(), cell: [stride, 1] };
        let keys = of(self.keys.iter().map(|key| key * kv_heads + self.kv_head).collect(), STRIDE);
        let (sum, of_keys) = (longest.max(width), (longest * heads / kv_heads).max(width));
        // As in the small suite: scores reach six deviations.
        vec![
            SampledOutput::new("out", &queries, sum, 0.0).condition(6.0),
            SampledOutput::new("lse", &lse, sum, 1.0),
            SampledOutput::new("d_q", &queries, sum, 1.0).condition(6.0),
            SampledOutput::new("d_k", &keys, of_keys, 1.0).condition(6.0),
            SampledOutput::new("d_v", &keys, of_keys, 1.0).condition(6.0),
        ]
    }

    /// The index of a key's row, for a query of head `head`.
    fn row_of_key(&self, key: usize, head: usize) -> usize {
        let AttentionShape { heads, kv_heads, width, .. } = self.shape;
        (key * kv_heads + head / (heads / kv_heads)) * width
    }

    /// The softmax of query `index`, and the gradient by its scores.
    fn softmax(&self, index: usize) -> Softmax {
        let AttentionShape { heads, width, .. } = self.shape;
        let (token, head) = (index / heads, index % heads);
        let (query, d_out) = (self.q.row(index * width, width), self.d_out.row(index * width, width));
        let seen = self.starts[token]..=token;
        let of_keys = |drawn: Drawn, with: &[f64]| -> Vec<f64> {
            seen.clone().map(|key| dot(with, &drawn.row(self.row_of_key(key, head), width))).collect()
        };
        let mut p = of_keys(self.k, &query);
        p.iter_mut().for_each(|score| *score *= self.scale());
        let lse = log_sum_exp(&p);
        p.iter_mut().for_each(|score| *score = (*score - lse).exp());
        let mut d_scores = of_keys(self.v, &d_out);
        let mean = dot(&p, &d_scores);
        d_scores.iter_mut().zip(&p).for_each(|(d, p)| *d = p * (*d - mean));
        Softmax { lse, p, d_scores, d_out }
    }

    fn define(&self) -> Vec<Vec<f64>> {
        let AttentionShape { heads, kv_heads, .. } = self.shape;
        let queries = each(self.queries.len(), |at| {
            let index = self.queries[at];
            let Softmax { lse, p, d_scores, .. } = self.softmax(index);
            let (token, head) = (index / heads, index % heads);
            let sum = |weights: &[f64], drawn: Drawn, channel: usize| -> f64 {
                let keys = self.starts[token]..=token;
                keys.zip(weights).map(|(key, p)| p * drawn.at(self.row_of_key(key, head) + channel)).sum()
            };
            let out: Vec<f64> = self.channels.iter().map(|&c| sum(&p, self.v, c)).collect();
            let d_q: Vec<f64> =
                self.channels.iter().map(|&c| self.scale() * sum(&d_scores, self.k, c)).collect();
            (out, lse, d_q)
        });
        let group = heads / kv_heads;
        let of_pieces = each(PIECES, |piece| {
            let mut sums = [(); 2].map(|()| vec![0.0; self.keys.len() * self.channels.len()]);
            for at in (piece..self.shape.tokens * group).step_by(PIECES) {
                self.add_keys(at / group * heads + self.kv_head * group + at % group, &mut sums);
            }
            sums
        });
        let mut sums = [(); 2].map(|()| vec![0.0; self.keys.len() * self.channels.len()]);
        for piece in of_pieces {
            for (sums, piece) in sums.iter_mut().zip(piece) {
                sums.iter_mut().zip(piece).for_each(|(sum, x)| *sum += x);
            }
        }
        let mut found: Vec<Vec<f64>> = vec![vec![]; 3];
        for (out, lse, d_q) in queries {
            found[0].extend(out);
            found[1].push(lse);
            found[2].extend(d_q);
        }
        found.extend(sums);
        found
    }

    /// Adds what query `index` contributes to the gradients by the checked keys: to `sums` of k and of v, by
    /// key and channel.
    fn add_keys(&self, index: usize, [d_k, d_v]: &mut [Vec<f64>; 2]) {
        let AttentionShape { heads, width, .. } = self.shape;
        let token = index / heads;
        let start = self.starts[token];
        let place = |key: usize| self.keys.partition_point(|&checked| checked < key);
        let (from, to) = (place(start), place(token + 1));
        if from == to {
            return;
        }
        let Softmax { p, d_scores, d_out, .. } = self.softmax(index);
        let query = self.q.row(index * width, width);
        for (at, &key) in self.keys[from..to].iter().enumerate() {
            for (column, &channel) in self.channels.iter().enumerate() {
                let place = (from + at) * self.channels.len() + column;
                d_k[place] += self.scale() * d_scores[key - start] * query[channel];
                d_v[place] += p[key - start] * d_out[channel];
            }
        }
    }
}
