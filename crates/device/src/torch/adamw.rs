//! AdamW, with the global norm's clipping.
//!
//! An update that stops half-way would leave an inconsistent model. So all memory that updates need on the
//! device is allocated by the first one, before anything is written, and used again; large tensors are
//! updated piece by piece.

use super::Torch;
use super::probe::{Numbers, agree_in_f32};
use super::refusal::Refusal;
use super::value::Value;
use crate::op::{AdamRule, AdamW};
use std::sync::Arc;

/// Elements that are updated at a time.
pub(super) const PIECE: usize = 1 << 20;

pub(super) fn adamw(torch: &Torch, op: &AdamW<'_>) -> Result<(), Refusal> {
    let (rule, tensors) = (op.rule, [op.parameter, op.gradient, op.first, op.second]);
    let scratch = Scratch::of(torch)?;
    let is_clipped = rule.clip > 0.0;
    if is_clipped {
        scratch.set_factor(torch, &torch.floats(op.squares_1)?, rule.clip)?;
    }
    let step = if torch.routes.adamw.is_found() { fused } else { composed };
    for first in (0..tensors[0].len()).step_by(PIECE) {
        let sizes = [PIECE.min(tensors[0].len() - first) as i64];
        let [parameter, mut gradient, mean, squares] =
            tensors.map(|tensor| torch.strided(tensor, &sizes, &[1], first));
        if is_clipped {
            let clipped = scratch.gradient.shaped(&sizes, 0)?;
            torch.aten().mul_out(&gradient?, &scratch.factor, &clipped)?;
            gradient = Ok(clipped);
        }
        let parameter = parameter?;
        step(torch, &scratch, [&parameter, &gradient?, &mean?, &squares?], rule)?;
        if let Some(working) = op.working {
            torch.flat(working)?.shaped(&sizes, first)?.set(&parameter)?;
        }
    }
    Ok(())
}

/// Memory for intermediate results of an update.
pub(super) struct Scratch {
    gradient: Value,
    /// Two more pieces, where the operator is composed.
    pieces: Option<[Value; 2]>,
    /// The factor that makes the norm of all gradients at most the clip.
    factor: Value,
    /// 1e-6, 1, and the clip.
    numbers: [Value; 3],
    /// The number of the step.
    step: Value,
}

impl Scratch {
    /// The device's scratch memory, allocated by the first call.
    fn of(torch: &Torch) -> Result<Arc<Scratch>, Refusal> {
        if let Some(scratch) = &torch.state().scratch {
            return Ok(scratch.clone());
        }
        let scratch = Arc::new(Scratch::sized(torch, PIECE, !torch.routes.adamw.is_found())?);
        torch.state().scratch = Some(scratch.clone());
        Ok(scratch)
    }

    fn sized(torch: &Torch, elements: usize, is_composed: bool) -> Result<Scratch, Refusal> {
        let f32 = torch.torch.dtypes.f32;
        let piece = || torch.empty(&[elements as i64], f32);
        let number = |value| torch.full(&[1], f32, value);
        Ok(Scratch {
            gradient: piece()?,
            pieces: is_composed.then(|| Ok::<_, Refusal>([piece()?, piece()?])).transpose()?,
            factor: number(1.0)?,
            numbers: [number(1e-6)?, number(1.0)?, number(0.0)?],
            step: torch.full(&[], f32, 0.0)?,
        })
    }

    /// `min(1, clip / (sqrt(squares) + 1e-6))`.
    fn set_factor(&self, torch: &Torch, squares_1: &Value, clip: f64) -> Result<(), Refusal> {
        let (aten, factor) = (torch.aten(), &self.factor);
        let [small, one, most] = &self.numbers;
        most.fill(clip)?;
        aten.sqrt_out(squares_1, factor)?;
        torch.accumulate(factor, small)?;
        aten.div_out(most, factor, factor)?;
        aten.minimum_out(factor, one, factor)?;
        Ok(())
    }
}

/// Whether the fused operator makes the steps that the composition makes.
pub(super) fn try_fused(torch: &Torch) -> Result<(), Refusal> {
    let mut numbers = Numbers::new(torch);
    let scratch = Scratch::sized(torch, 50, true)?;
    let gradient = numbers.random(&[50])?;
    let start = numbers.random(&[50])?;
    let of = |value: f64| torch.full(&[50], torch.torch.dtypes.f32, value);
    let copy = || torch.converted(&start, &[50], torch.torch.dtypes.f32);
    let [found, wanted] = [[copy()?, of(0.0)?, of(0.0)?], [copy()?, of(0.0)?, of(0.0)?]];
    for step in [1, 2] {
        let rule = AdamRule { rate: 0.1, beta1: 0.8, beta2: 0.9, epsilon: 1e-3, decay: 0.1, step, clip: 0.0 };
        fused(torch, &scratch, [&found[0], &gradient, &found[1], &found[2]], rule)?;
        composed(torch, &scratch, [&wanted[0], &gradient, &wanted[1], &wanted[2]], rule)?;
    }
    for (what, (found, wanted)) in ["parameters", "means", "squares"].iter().zip(found.iter().zip(&wanted)) {
        agree_in_f32(torch, what, found, wanted)?;
    }
    Ok(())
}

fn fused(
    torch: &Torch,
    scratch: &Scratch,
    [parameter, gradient, first, second]: [&Value; 4],
    rule: AdamRule,
) -> Result<(), Refusal> {
    let AdamRule { rate, beta1, beta2, epsilon, decay, step, .. } = rule;
    scratch.step.fill(step as f64)?;
    torch.aten().fused_adamw_(
        &[parameter],
        &[gradient],
        &[first],
        &[second],
        &[],
        &[&scratch.step],
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
    scratch: &Scratch,
    [parameter, gradient, first, second]: [&Value; 4],
    rule: AdamRule,
) -> Result<(), Refusal> {
    let AdamRule { rate, beta1, beta2, epsilon, decay, step, .. } = rule;
    let (aten, sizes) = (torch.aten(), parameter.sizes()?);
    let pieces = scratch.pieces.as_ref().ok_or("there is no room for a composed update")?;
    let [a, b] = [pieces[0].shaped(&sizes, 0)?, pieces[1].shaped(&sizes, 0)?];
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    aten.mul_(first, &torch.scalar(beta1)?)?;
    aten.mul_out(gradient, &torch.scalar(1.0 - beta1)?, &a)?;
    torch.accumulate(first, &a)?;
    aten.mul_(second, &torch.scalar(beta2)?)?;
    aten.mul_out(gradient, gradient, &a)?;
    aten.mul_(&a, &torch.scalar(1.0 - beta2)?)?;
    torch.accumulate(second, &a)?;
    aten.sqrt_out(second, &a)?;
    aten.mul_(&a, &torch.scalar(1.0 / correction(beta2).sqrt())?)?;
    b.fill(epsilon)?;
    torch.accumulate(&a, &b)?;
    aten.div_out(first, &a, &b)?;
    aten.mul_(&b, &torch.scalar(-rate / correction(beta1))?)?;
    aten.mul_(parameter, &torch.scalar(1.0 - rate * decay)?)?;
    torch.accumulate(parameter, &b)
}
