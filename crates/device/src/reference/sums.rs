//! Sums over a whole tensor.

/// The sum of x, and the sum of x^2.
pub(super) fn moments(x: &[f64]) -> [f64; 2] {
    [x.iter().sum(), x.iter().map(|x| x * x).sum()]
}
