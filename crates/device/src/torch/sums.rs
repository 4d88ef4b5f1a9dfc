//! Sums over a whole tensor.

use super::Torch;
use super::refusal::Refusal;
use super::value::Value;
use crate::op::{Moments, SumOfSquares};
use crate::tensor::Tensor;

/// Elements whose squares exist at a time.
pub(super) const PIECE: usize = 1 << 18;

pub(super) fn sum_of_squares(torch: &Torch, op: &SumOfSquares<'_>) -> Result<(), Refusal> {
    torch.accumulate(&torch.floats(op.out_1)?, &squares(torch, op.x)?)
}

pub(super) fn moments(torch: &Torch, op: &Moments<'_>) -> Result<(), Refusal> {
    let Moments { x, out_2 } = *op;
    let aten = torch.aten();
    let sum = aten.sum(&torch.reshaped(x, &[x.len() as i64])?, Some(&[0]), true, None)?;
    torch.accumulate(&torch.floats(out_2)?, &aten.cat(&[&sum, &squares(torch, x)?], 0)?)
}

/// A piece at a time, so that the squares stay in a processor's caches.
fn squares(torch: &Torch, x: &Tensor) -> Result<Value, Refusal> {
    let aten = torch.aten();
    let mut sums = vec![];
    for first in (0..x.len()).step_by(PIECE) {
        let piece = torch.strided(x, &[PIECE.min(x.len() - first) as i64], &[1], first)?;
        sums.push(aten.sum(&aten.mul(&piece, &piece)?, Some(&[0]), true, None)?);
    }
    if sums.is_empty() {
        return torch.full(&[1], torch.torch.dtypes.f32, 0.0);
    }
    let sums = aten.cat(&sums.iter().collect::<Vec<_>>(), 0)?;
    aten.sum(&sums, Some(&[0]), true, None)
}

/// `log sum exp` along the last of a dense tensor's axes, which is kept as 1.
pub(super) fn log_sum_exp(torch: &Torch, x: &Value, axis: i64) -> Result<Value, Refusal> {
    let aten = torch.aten();
    let most = aten.amax(x, &[axis], true)?;
    let sum = aten.sum(&aten.exp_(&x.minus(&most, 1.0)?)?, Some(&[axis]), true, None)?;
    aten.log(&sum)?.plus(&most)
}
