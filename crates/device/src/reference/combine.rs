//! The outputs of each token's experts, added up.

use super::operands::{floats, integers, store_or_add, width};
use crate::op::Combine;

pub(super) fn combine(op: &Combine<'_>) {
    let (x, places) = (floats(op.x_rd), integers(op.places_tk));
    store_or_add(op.out_td, &sums(&x, &places, width(op.places_tk), width(op.x_rd)), op.add);
}

/// `out[t] = sum over k of x[places[t,k]]`, rows of width d. The gradient with respect to x is `dispatch` of
/// that with respect to out.
fn sums(x: &[f64], places: &[i32], choices: usize, d: usize) -> Vec<f64> {
    let mut out = vec![0.0; places.len() / choices * d];
    for (choice, &row) in places.iter().enumerate() {
        let t = choice / choices;
        for i in 0..d {
            out[t * d + i] += x[row as usize * d + i];
        }
    }
    out
}
