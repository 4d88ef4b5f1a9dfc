//! Sums over a whole tensor.

use super::operands::{add, floats};
use crate::op::{Moments, SumOfSquares};

pub(super) fn sum_of_squares(op: &SumOfSquares<'_>) {
    add(op.out_1, &sums(&floats(op.x))[1..]);
}

pub(super) fn moments(op: &Moments<'_>) {
    add(op.out_2, &sums(&floats(op.x)));
}

/// The sum of x, and the sum of x^2.
fn sums(x: &[f64]) -> [f64; 2] {
    [x.iter().sum(), x.iter().map(|x| x * x).sum()]
}
