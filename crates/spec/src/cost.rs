//! The cost of ops from their shapes: floating-point operations, and bytes that must move at least once.
//!
//! The planner prices a step with these functions and the devices count with them, so that prediction and
//! measurement share one arithmetic. Only products, attention and the head count FLOPs: the rest is bound by
//! bytes. Letters of the shapes: T tokens, S keys, D width, H heads, G key and value heads, C head width, V
//! vocabulary; M, N, K any.

use crate::run::Precision;
use std::iter::Sum;
use std::ops::{Add, Mul};

/// The work of one op, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: f64,
    /// Bytes of the operands, each read once and written once: the least traffic, with a perfect cache.
    pub bytes: f64,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl Mul<f64> for Cost {
    type Output = Cost;
    fn mul(self, times: f64) -> Cost {
        Cost { flops: self.flops * times, bytes: self.bytes * times }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(all: I) -> Cost {
        all.fold(Cost::default(), Add::add)
    }
}

/// Bytes of a number of each kind that an op holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Of activations and working weights.
    pub values: usize,
    /// Of sums, statistics, routing and losses, gradients by weights, and the optimizer's state.
    pub sums: usize,
}

impl Widths {
    /// All in f32.
    pub const F32: Widths = Widths { values: 4, sums: 4 };
    /// Values in bf16, sums in f32.
    pub const BF16: Widths = Widths { values: 2, sums: 4 };
}

impl From<Precision> for Widths {
    fn from(precision: Precision) -> Widths {
        match precision {
            Precision::F32 => Widths::F32,
            Precision::Bf16 => Widths::BF16,
        }
    }
}

/// The cost of `[M, K] x [K, N]` with operands and an output of these bytes each. With `add` the output is
/// read too.
pub fn matmul([m, n, k]: [usize; 3], [width, out_width]: [usize; 2], add: bool) -> Cost {
    let outputs = if add { 2 * m * n } else { m * n };
    let bytes = (m * k + k * n) as f64 * width as f64 + outputs as f64 * out_width as f64;
    Cost { flops: 2.0 * product(&[m, n, k]), bytes }
}

/// The cost of `rows` rows, each times one of `experts` matrices `[N, K]`. Every matrix is read once.
pub fn grouped_matmul(rows: usize, [experts, n, k]: [usize; 3], widths: Widths) -> Cost {
    let moved = product(&[rows, k]) + product(&[rows, n]) + product(&[experts, n, k]);
    Cost { flops: 2.0 * product(&[rows, n, k]), bytes: moved * widths.values as f64 }
}

/// The cost of the gradient by the experts' matrices. With `add` it is read too.
pub fn grouped_matmul_weights(rows: usize, [experts, n, k]: [usize; 3], widths: Widths, add: bool) -> Cost {
    let values = product(&[rows, k]) + product(&[rows, n]);
    let bytes = bytes(values, times(add) * product(&[experts, n, k]), widths);
    Cost { flops: 2.0 * product(&[rows, n, k]), bytes }
}

/// The cost of causal attention of the last T of S keys: two products over the visible pairs of query and
/// key. An upper bound: documents make it cheaper.
pub fn attention([t, s, h, g, c]: [usize; 5], widths: Widths) -> Cost {
    let pairs = product(&[t]) * (s as f64 - (t as f64 - 1.0) / 2.0);
    let values = product(&[t, h, c]) * 2.0 + product(&[s, g, c]) * 2.0;
    Cost { flops: 4.0 * pairs * product(&[h, c]), bytes: bytes(values, product(&[t, h]), widths) }
}

/// The cost of attention's gradient, S = T: the scores again, and four more products.
pub fn attention_grad([t, h, g, c]: [usize; 4], widths: Widths) -> Cost {
    let pairs = product(&[t]) * (t as f64 + 1.0) / 2.0;
    let values = product(&[t, h, c]) * 4.0 + product(&[t, g, c]) * 4.0;
    Cost { flops: 10.0 * pairs * product(&[h, c]), bytes: bytes(values, product(&[t, h]), widths) }
}

/// The cost of logits and losses. The logits are never written to memory.
pub fn cross_entropy([t, v, d]: [usize; 3], widths: Widths) -> Cost {
    Cost {
        flops: 2.0 * product(&[t, v, d]),
        bytes: bytes(product(&[t, d]) + product(&[v, d]), t as f64, widths),
    }
}

/// The cost of logits, losses and both gradients. With `add` the one by the head is read too.
pub fn cross_entropy_grad([t, v, d]: [usize; 3], widths: Widths, add: bool) -> Cost {
    let values = 2.0 * product(&[t, d]) + product(&[v, d]);
    let sums = times(add) * product(&[v, d]) + t as f64;
    Cost { flops: 6.0 * product(&[t, v, d]), bytes: bytes(values, sums, widths) }
}

/// The cost of an op without FLOPs: `elements` of `width` bytes each, reads and writes together.
pub fn moves(elements: usize, width: usize) -> Cost {
    Cost { flops: 0.0, bytes: elements as f64 * width as f64 }
}

/// How often an output moves.
fn times(add: bool) -> f64 {
    if add { 2.0 } else { 1.0 }
}

fn bytes(values: f64, sums: f64, widths: Widths) -> f64 {
    values * widths.values as f64 + sums * widths.sums as f64
}

fn product(sizes: &[usize]) -> f64 {
    sizes.iter().map(|&size| size as f64).product()
}
