//! AdamW, with the global norm's clipping.

use super::Torch;
use super::value::{Value, Words};
use crate::op::AdamRule;
use crate::tensor::Tensor;

pub(super) fn step(
    torch: &Torch,
    tensors: [&Tensor; 4],
    squares_1: &Tensor,
    rule: AdamRule,
) -> Result<(), Words> {
    let flat = |tensor: &Tensor| torch.reshaped(tensor, &[tensor.len() as i64]);
    let [parameter, mut gradient, first, second] =
        [flat(tensors[0])?, flat(tensors[1])?, flat(tensors[2])?, flat(tensors[3])?];
    if rule.clip > 0.0 {
        gradient = torch.aten().mul(&gradient, &factor(torch, squares_1, rule.clip)?)?;
    }
    let step = if torch.routes.adamw { fused } else { composed };
    step(torch, [&parameter, &gradient, &first, &second], rule)
}

/// Whether the fused operator makes the first step that it should: against the gradient, by the rate.
pub(super) fn try_fused(torch: &Torch) -> Result<bool, Words> {
    let of = |value: f64| torch.full(&[1], torch.torch.dtypes.f32, value);
    let (parameter, gradient, first, second) = (of(1.0)?, of(2.0)?, of(0.0)?, of(0.0)?);
    let rule = AdamRule { rate: 0.5, beta1: 0.5, beta2: 0.5, epsilon: 0.0, decay: 0.0, step: 1, clip: 0.0 };
    fused(torch, [&parameter, &gradient, &first, &second], rule)?;
    Ok((torch.first(&parameter)? - 0.5).abs() < 1e-6)
}

/// `min(1, clip / (sqrt(squares) + 1e-6))`.
fn factor(torch: &Torch, squares_1: &Tensor, clip: f64) -> Result<Value, Words> {
    let aten = torch.aten();
    let norm = aten.sqrt(&torch.floats(squares_1)?)?.plus(&torch.scalar(1e-6)?)?;
    aten.minimum(&aten.div(&torch.scalar(clip)?, &norm)?, &torch.scalar(1.0)?)
}

fn fused(
    torch: &Torch,
    [parameter, gradient, first, second]: [&Value; 4],
    rule: AdamRule,
) -> Result<(), Words> {
    let AdamRule { rate, beta1, beta2, epsilon, decay, step, .. } = rule;
    let step = torch.full(&[], torch.torch.dtypes.f32, step as f64)?;
    torch.aten().fused_adamw_(
        &[parameter],
        &[gradient],
        &[first],
        &[second],
        &[],
        &[&step],
        rate,
        beta1,
        beta2,
        decay,
        epsilon,
        false,
        false,
        None,
        None,
    )
}

fn composed(
    torch: &Torch,
    [parameter, gradient, first, second]: [&Value; 4],
    rule: AdamRule,
) -> Result<(), Words> {
    let AdamRule { rate, beta1, beta2, epsilon, decay, step, .. } = rule;
    let aten = torch.aten();
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let mean = |moment: &Value, beta: f64, x: &Value| {
        aten.mul_(moment, &torch.scalar(beta)?)?;
        torch.accumulate(moment, &aten.mul(x, &torch.scalar(1.0 - beta)?)?)
    };
    mean(first, beta1, gradient)?;
    mean(second, beta2, &aten.mul(gradient, gradient)?)?;
    let root = aten.mul_(&aten.sqrt(second)?, &torch.scalar(1.0 / correction(beta2).sqrt())?)?;
    let direction = aten.div(first, &root.plus(&torch.scalar(epsilon)?)?)?;
    aten.mul_(parameter, &torch.scalar(1.0 - rate * decay)?)?;
    torch.accumulate(parameter, &aten.mul_(&direction, &torch.scalar(-rate / correction(beta1))?)?)
}
