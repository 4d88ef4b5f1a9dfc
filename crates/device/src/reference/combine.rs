//! The answers of each token's experts, added up.

/// `out[t] = sum over k of x[places[t,k]]`, rows of width d. The gradient by x is `dispatch` of the gradient by out.
pub(super) fn combine(x: &[f64], places: &[i32], choices: usize, d: usize) -> Vec<f64> {
    let mut out = vec![0.0; places.len() / choices * d];
    for (choice, &row) in places.iter().enumerate() {
        let t = choice / choices;
        for i in 0..d {
            out[t * d + i] += x[row as usize * d + i];
        }
    }
    out
}
