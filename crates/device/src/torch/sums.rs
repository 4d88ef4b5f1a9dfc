//! Sums over a whole tensor.

use super::Torch;
use super::value::{Value, Words};
use crate::tensor::Tensor;

pub(super) fn sum_of_squares(torch: &Torch, x: &Tensor, out_1: &Tensor) -> Result<(), Words> {
    let x = torch.reshaped(x, &[x.len() as i64])?;
    torch.accumulate(&torch.floats(out_1)?, &squares(torch, &x)?)
}

pub(super) fn moments(torch: &Torch, x: &Tensor, out_2: &Tensor) -> Result<(), Words> {
    let aten = torch.aten();
    let x = torch.reshaped(x, &[x.len() as i64])?;
    let sum = aten.sum(&x, Some(&[0]), true, None)?;
    torch.accumulate(&torch.floats(out_2)?, &aten.cat(&[&sum, &squares(torch, &x)?], 0)?)
}

fn squares(torch: &Torch, x: &Value) -> Result<Value, Words> {
    let aten = torch.aten();
    aten.sum(&aten.mul(x, x)?, Some(&[0]), true, None)
}
