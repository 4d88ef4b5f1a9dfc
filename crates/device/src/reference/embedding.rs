//! Rows of a table, looked up by token.

/// `out[t] = table[tokens[t]]`, rows of width d.
pub(super) fn forward(table: &[f64], tokens: &[i32], d: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(tokens.len() * d);
    for &token in tokens {
        let token = token as usize;
        out.extend_from_slice(&table[token * d..(token + 1) * d]);
    }
    out
}

/// Adds `d_out[t]` to `d_table[tokens[t]]`, in order of t.
pub(super) fn backward(d_out: &[f64], tokens: &[i32], d: usize, d_table: &mut [f64]) {
    for (t, &token) in tokens.iter().enumerate() {
        for i in 0..d {
            d_table[token as usize * d + i] += d_out[t * d + i];
        }
    }
}
