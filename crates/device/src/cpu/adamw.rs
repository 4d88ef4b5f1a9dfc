//! AdamW, one pass over parameter, gradient, both moments and the working copy, whatever decays of them.

use super::TASK_ELEMENTS;
use super::kernel::wide;
use super::operands::{Number, by_kind, floats, floats_mut, numbers_mut};
use super::team::{Chunks, Team};
use crate::error::Result;
use crate::op::{AdamRule, AdamW, Stretch};

/// One step in place.
pub(super) fn adamw(team: &Team, op: &AdamW<'_>) -> Result<()> {
    by_kind!(op.working.unwrap_or(op.parameter), E => step::<E>(team, op))
}

fn step<E: Number>(team: &Team, op: &AdamW<'_>) -> Result<()> {
    let (parameter, gradient) = (floats_mut(op.parameter)?, floats(op.gradient)?);
    let (first, second) = (floats_mut(op.first)?, floats_mut(op.second)?);
    let working = op.working.map(numbers_mut::<E>).transpose()?;
    let squares = f64::from(floats(op.squares_1)?[0]);
    let decaying = Numbers::of(op.rule, squares);
    let other = Numbers::of(AdamRule { decay: 0.0, ..op.rule }, squares);
    let chunks = |slice| Chunks::of(slice, TASK_ELEMENTS);
    let working = working.map(|working| Chunks::of(working, TASK_ELEMENTS));
    team.each_piece(
        ((chunks(parameter), chunks(first), chunks(second)), working),
        |task, ((parameter, first, second), working)| {
            let from = task * TASK_ELEMENTS;
            let gradient = &gradient[from..][..parameter.len()];
            for Stretch { elements, decays } in op.stretches(from..from + parameter.len()) {
                let at = elements.start - from..elements.end - from;
                let numbers = if decays { decaying } else { other };
                let [parameter, first, second] =
                    [&mut parameter[at.clone()], &mut first[at.clone()], &mut second[at.clone()]];
                update(team.kernel, parameter, &gradient[at], first, second, numbers);
            }
            // While the piece is in the caches.
            if let Some(working) = working {
                copy(team.kernel, parameter, working);
            }
        },
    );
    Ok(())
}

wide! {
    fn copy<E: Number>(parameter: &[f32], working: &mut [E]) {
        for (working, &parameter) in working.iter_mut().zip(parameter) {
            *working = E::rounded(parameter);
        }
    }
}

/// The rule's numbers in the form that the loop over elements needs.
#[derive(Clone, Copy)]
struct Numbers {
    gradient_scale: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    /// The rate over the first moment's bias correction.
    rate: f32,
    /// One over the square root of the second moment's bias correction.
    second_scale: f32,
    epsilon: f32,
    keep: f32,
}

impl Numbers {
    fn of(rule: AdamRule, squares: f64) -> Numbers {
        let AdamRule { rate, beta1, beta2, epsilon, decay, step, clip } = rule;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Numbers {
            gradient_scale: if clip > 0.0 { (clip / (squares.sqrt() + 1e-6)).min(1.0) as f32 } else { 1.0 },
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            rate: (rate / correction(beta1)) as f32,
            second_scale: (1.0 / correction(beta2).sqrt()) as f32,
            epsilon: epsilon as f32,
            keep: (1.0 - rate * decay) as f32,
        }
    }
}

wide! {
    fn update(
        parameter: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        numbers: Numbers,
    ) {
        let elements = parameter.iter_mut().zip(gradient).zip(first).zip(second);
        for (((parameter, &gradient), first), second) in elements {
            let gradient = gradient * numbers.gradient_scale;
            let m = numbers.beta1 * *first + numbers.rest1 * gradient;
            let v = numbers.beta2 * *second + numbers.rest2 * gradient * gradient;
            *first = m;
            *second = v;
            let denominator = v.sqrt() * numbers.second_scale + numbers.epsilon;
            *parameter = *parameter * numbers.keep - numbers.rate * m / denominator;
        }
    }
}
