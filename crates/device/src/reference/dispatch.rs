//! Each token's row to each expert it visits.

/// `out[r] = x[order[r] / choices]`, rows of width d. The gradient by x is `combine` of the gradient by out.
pub(super) fn dispatch(x: &[f64], order: &[i32], choices: usize, d: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(order.len() * d);
    for &choice in order {
        let t = choice as usize / choices;
        out.extend_from_slice(&x[t * d..(t + 1) * d]);
    }
    out
}
