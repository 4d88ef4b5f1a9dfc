//! Launches of `kernels/sums.cu`.

use super::super::refusal::Refusal;
use super::call::{CHUNK, Call, of_kind};
use crate::kernels::THREADS;
use crate::op::{Moments, SumOfSquares};
use crate::tensor::Tensor;

/// The most blocks, each with a part of the sum; whatever the device, so that all sum in one order.
const MOST_PARTS: usize = 1024;

pub(super) fn sum_of_squares(call: &Call<'_>, op: &SumOfSquares<'_>) -> Result<(), Refusal> {
    sums(call, op.x, op.out_1, 1)
}

pub(super) fn moments(call: &Call<'_>, op: &Moments<'_>) -> Result<(), Refusal> {
    sums(call, op.x, op.out_2, 2)
}

/// Adds the sum of squares to `out`, or before it, as the first of two, the plain sum.
fn sums(call: &Call<'_>, x: &Tensor, out: &Tensor, columns: usize) -> Result<(), Refusal> {
    let blocks = x.len().div_ceil(THREADS * CHUNK * 4).clamp(1, MOST_PARTS);
    let parts = call.torch.empty(&[blocks as i64, columns as i64], call.torch.torch.dtypes.f32)?;
    let arguments = [call.tensor(x)?, call.value(&parts)?, x.len().into(), (columns == 2).into()];
    call.launch(of_kind!(x.kind(), "sums"), blocks, &arguments)?;
    call.add_columns(&parts, [blocks, columns], out)
}
