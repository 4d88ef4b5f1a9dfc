//! What an op costs as a function of its shapes: floating-point operations, and bytes that must move at least once.
//!
//! The planner prices a step with these functions and the trainer's devices count with them, so promise and proof are
//! one arithmetic. Only products, attention and the head are counted as FLOPs: the rest is bound by bytes.

use std::iter::Sum;
use std::ops::{Add, Mul};

/// Work of one op, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub flops: f64,
    /// Read once plus written once: the least traffic with a perfect cache.
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

/// `[m,k] x [k,n]`, with floats of `width` bytes; accumulating reads the output too.
pub fn matmul([m, n, k]: [usize; 3], width: usize, add: bool) -> Cost {
    let outputs = if add { 2 * m * n } else { m * n };
    Cost { flops: 2.0 * product(&[m, n, k]), bytes: (m * k + k * n + outputs) as f64 * width as f64 }
}

/// `rows` rows, each times one of `experts` matrices `[n, k]`; every matrix is read once.
pub fn grouped_matmul(rows: usize, [experts, n, k]: [usize; 3], width: usize) -> Cost {
    let moved = product(&[rows, k]) + product(&[rows, n]) + product(&[experts, n, k]);
    Cost { flops: 2.0 * product(&[rows, n, k]), bytes: moved * width as f64 }
}

/// The gradient by the experts' matrices, accumulated.
pub fn grouped_matmul_weights(rows: usize, [experts, n, k]: [usize; 3], width: usize) -> Cost {
    let moved = product(&[rows, k]) + product(&[rows, n]) + 2.0 * product(&[experts, n, k]);
    Cost { flops: 2.0 * product(&[rows, n, k]), bytes: moved * width as f64 }
}

/// Causal attention: two products over half of queries x keys. Documents make it cheaper; this is the bound.
pub fn attention([t, s, h, g, c]: [usize; 5], width: usize) -> Cost {
    let pairs = product(&[t]) * (s as f64 - (t as f64 - 1.0) / 2.0);
    let moved = product(&[t, h, c]) * 2.0 + product(&[s, g, c]) * 2.0 + product(&[t, h]);
    Cost { flops: 4.0 * pairs * product(&[h, c]), bytes: moved * width as f64 }
}

/// Its gradient: the scores again, and four products more.
pub fn attention_grad([t, h, g, c]: [usize; 4], width: usize) -> Cost {
    let pairs = product(&[t]) * (t as f64 + 1.0) / 2.0;
    let moved = product(&[t, h, c]) * 4.0 + product(&[t, g, c]) * 4.0 + product(&[t, h]);
    Cost { flops: 10.0 * pairs * product(&[h, c]), bytes: moved * width as f64 }
}

/// Logits and losses; the logits never reach memory.
pub fn cross_entropy([t, v, d]: [usize; 3], width: usize) -> Cost {
    Cost {
        flops: 2.0 * product(&[t, v, d]),
        bytes: (product(&[t, d]) + product(&[v, d]) + t as f64) * width as f64,
    }
}

/// Logits, losses, and both gradients.
pub fn cross_entropy_grad([t, v, d]: [usize; 3], width: usize) -> Cost {
    let moved = 2.0 * product(&[t, d]) + 3.0 * product(&[v, d]) + t as f64;
    Cost { flops: 6.0 * product(&[t, v, d]), bytes: moved * width as f64 }
}

/// An op that only moves: so many elements of so many bytes, reads and writes together.
pub fn moves(elements: usize, width: usize) -> Cost {
    Cost { flops: 0.0, bytes: elements as f64 * width as f64 }
}

fn product(sizes: &[usize]) -> f64 {
    sizes.iter().map(|&size| size as f64).product()
}
