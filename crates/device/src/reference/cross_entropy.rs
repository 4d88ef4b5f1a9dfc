//! The head `w` `[V, D]` and the cross-entropy of its softmax, in one.

use super::operands::{integers, rounded, store, store_or_add, width};
use super::route::log_sum_exp;
use crate::op::{CrossEntropy, CrossEntropyGrad};
use crate::precision::{Precision, operand};

pub(super) fn cross_entropy(op: &CrossEntropy<'_>, precision: Precision) {
    let (x, w) = (rounded(op.x_td, precision), rounded(op.w_vd, precision));
    store(op.losses_t, &losses(&x, &w, &integers(op.targets_t), width(op.x_td)));
}

pub(super) fn cross_entropy_grad(op: &CrossEntropyGrad<'_>, precision: Precision) {
    let (x, w) = (rounded(op.x_td, precision), rounded(op.w_vd, precision));
    let (targets, d) = (integers(op.targets_t), width(op.x_td));
    let (d_x, d_w) = backward(&x, &w, &targets, d, op.scale, precision);
    store(op.losses_t, &losses(&x, &w, &targets, d));
    store(op.d_x_td, &d_x);
    store_or_add(op.d_w_vd, &d_w, op.add);
}

/// `losses[t] = logsumexp(z) - z[target]` with the logits `z = w x[t]`; 0 where the target is -1.
fn losses(x: &[f64], w: &[f64], targets: &[i32], d: usize) -> Vec<f64> {
    let mut losses = vec![0.0; targets.len()];
    for (t, &target) in targets.iter().enumerate() {
        if target >= 0 {
            let logits = logits(&x[t * d..(t + 1) * d], w);
            losses[t] = log_sum_exp(&logits) - logits[target as usize];
        }
    }
    losses
}

/// The gradients of `scale` x the sum of the losses, by x and by w. With `p = softmax(z)`, the gradient by a
/// logit is `d_z_v = scale (p_v - [v = target])`; so `d_x[t] = sum over v of d_z_v w[v]` and
/// `d_w[v] = sum over t of d_z_v x[t]`. `x` and `w` are rounded already; the gradients by the logits,
/// operands too, are rounded here.
fn backward(
    x: &[f64],
    w: &[f64],
    targets: &[i32],
    d: usize,
    scale: f64,
    precision: Precision,
) -> (Vec<f64>, Vec<f64>) {
    let (mut d_x, mut d_w) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    for (t, &target) in targets.iter().enumerate() {
        if target < 0 {
            continue;
        }
        let x = &x[t * d..(t + 1) * d];
        let logits = logits(x, w);
        let lse = log_sum_exp(&logits);
        for (v, logit) in logits.iter().enumerate() {
            let hit = if v == target as usize { 1.0 } else { 0.0 };
            let d_logit = operand(precision, scale * ((logit - lse).exp() - hit));
            for i in 0..d {
                d_x[t * d + i] += d_logit * w[v * d + i];
                d_w[v * d + i] += d_logit * x[i];
            }
        }
    }
    (d_x, d_w)
}

fn logits(x: &[f64], w: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}
