//! AdamW, with the global norm's clipping.
//!
//! An update that stops half-way would leave an inconsistent model. So all memory that updates need on the
//! device is allocated by the first one, before anything is written, and used again; large bundles are
//! updated piece by piece. What fails all the same once something is written says so.

use super::Torch;
use super::probe::{Numbers, agree_in_f32};
use super::refusal::Refusal;
use super::value::Value;
use crate::op::{AdamRule, AdamW, Stretch};
use std::ops::Range;
use std::sync::Arc;

/// Elements that are updated at a time.
pub(super) const PIECE: usize = 1 << 24;

/// Elements of the scratch memory of small models.
const LEAST: usize = 1 << 20;

pub(super) fn adamw(torch: &Torch, op: &AdamW<'_>) -> Result<(), Refusal> {
    let count = op.parameter.len();
    let scratch = Scratch::of(torch, count)?;
    if op.rule.clip > 0.0 {
        scratch.set_factor(torch, &torch.floats(op.squares_1)?, op.rule.clip)?;
    }
    let mut has_written = false;
    let mut update = || -> Result<(), Refusal> {
        for first in (0..count).step_by(PIECE) {
            piece(torch, op, &scratch, first..(first + PIECE).min(count), &mut has_written)?;
        }
        op.working.map_or(Ok(()), |working| torch.flat(working)?.set(&torch.flat(op.parameter)?))
    };
    let outcome = update();
    outcome.map_err(|refusal| if has_written { refusal.half_done() } else { refusal })
}

/// Updates the elements `within`: those that decay and the others in one call each, where torch has the
/// operator that takes lists.
fn piece(
    torch: &Torch,
    op: &AdamW<'_>,
    scratch: &Scratch,
    within: Range<usize>,
    has_written: &mut bool,
) -> Result<(), Refusal> {
    let is_clipped = op.rule.clip > 0.0;
    if is_clipped {
        let sizes = [within.len() as i64];
        let gradient = torch.strided(op.gradient, &sizes, &[1], within.start)?;
        torch.aten().mul_out(&gradient, &scratch.factor, &scratch.gradient.shaped(&sizes, 0)?)?;
    }
    let take = |elements: &Range<usize>| {
        let sizes = [elements.len() as i64];
        let of = |tensor| torch.strided(tensor, &sizes, &[1], elements.start);
        let clipped = || scratch.gradient.shaped(&sizes, elements.start - within.start);
        let gradient = if is_clipped { clipped()? } else { of(op.gradient)? };
        Ok::<_, Refusal>([of(op.parameter)?, gradient, of(op.first)?, of(op.second)?])
    };
    for decays in [true, false] {
        let stretches = op.stretches(within.clone()).filter(|stretch| stretch.decays == decays);
        let tensors: Vec<_> =
            stretches.map(|Stretch { elements, .. }| take(&elements)).collect::<Result<_, _>>()?;
        let rule = if decays { op.rule } else { AdamRule { decay: 0.0, ..op.rule } };
        if tensors.is_empty() {
            continue;
        }
        if torch.routes.adamw.is_found() {
            fused(torch, scratch, &tensors, rule)?;
            *has_written = true;
            continue;
        }
        for tensors in &tensors {
            *has_written = true;
            composed(torch, scratch, tensors, rule)?;
        }
    }
    Ok(())
}

/// Memory for intermediate results of an update.
pub(super) struct Scratch {
    elements: usize,
    /// The gradient of a piece, clipped.
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
    /// The device's scratch memory for parameters of `count` elements, allocated by the first call.
    fn of(torch: &Torch, count: usize) -> Result<Arc<Scratch>, Refusal> {
        let elements = count.clamp(LEAST, PIECE);
        if let Some(scratch) = torch.state().scratch.clone().filter(|scratch| elements <= scratch.elements) {
            return Ok(scratch);
        }
        let scratch = Arc::new(Scratch::sized(torch, elements, !torch.routes.adamw.is_found())?);
        torch.state().scratch = Some(scratch.clone());
        Ok(scratch)
    }

    fn sized(torch: &Torch, elements: usize, is_composed: bool) -> Result<Scratch, Refusal> {
        let f32 = torch.torch.dtypes.f32;
        let piece = || torch.empty(&[elements as i64], f32);
        let number = |value| torch.full(&[1], f32, value);
        Ok(Scratch {
            elements,
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
        fused(torch, &scratch, &lists(&found, &gradient)?, rule)?;
        for tensors in &lists(&wanted, &gradient)? {
            composed(torch, &scratch, tensors, rule)?;
        }
    }
    for (what, (found, wanted)) in ["parameters", "means", "squares"].iter().zip(found.iter().zip(&wanted)) {
        agree_in_f32(torch, what, found, wanted)?;
    }
    Ok(())
}

/// Two stretches of a state of 50 elements, with their gradients: parameters, gradients, means, squares.
fn lists([parameter, mean, square]: &[Value; 3], gradient: &Value) -> Result<Vec<[Value; 4]>, Refusal> {
    let stretch = |(count, first): (i64, usize)| {
        let of = |value: &Value| value.shaped(&[count], first);
        Ok([of(parameter)?, of(gradient)?, of(mean)?, of(square)?])
    };
    [(19, 0), (31, 19)].into_iter().map(stretch).collect()
}

/// Steps of parameters, gradients, means and squares, all by one call.
fn fused(torch: &Torch, scratch: &Scratch, tensors: &[[Value; 4]], rule: AdamRule) -> Result<(), Refusal> {
    let AdamRule { rate, beta1, beta2, epsilon, decay, step, .. } = rule;
    scratch.step.fill(step as f64)?;
    let list = |index: usize| tensors.iter().map(|tensors| &tensors[index]).collect::<Vec<&Value>>();
    torch.aten().fused_adamw_(
        &list(0),
        &list(1),
        &list(2),
        &list(3),
        &[],
        &vec![&scratch.step; tensors.len()],
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
    [parameter, gradient, first, second]: &[Value; 4],
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
