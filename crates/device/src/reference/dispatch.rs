//! Each token's row to each expert it visits.

use super::operands::{floats, integers, store, width};
use crate::op::Dispatch;

pub(super) fn dispatch(op: &Dispatch<'_>) {
    store(op.out_rd, &rows(&floats(op.x_td), &integers(op.order_r), op.choices, width(op.x_td)));
}

/// `out[r] = x[order[r] / choices]`, rows of width d. The gradient by x is `combine` of the gradient by out.
fn rows(x: &[f64], order: &[i32], choices: usize, d: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(order.len() * d);
    for &choice in order {
        let t = choice as usize / choices;
        out.extend_from_slice(&x[t * d..(t + 1) * d]);
    }
    out
}
