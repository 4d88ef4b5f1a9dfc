//! The ops of a step that touch parameters and the router's state.

use super::bench::{Bench, Case, Output};
use crate::error::Result;
use crate::op::AdamRule;
use crate::ops;
use std::ops::Range;

#[expect(clippy::single_range_in_vec_init, reason = "one span of elements")]
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    let rule = rule(1, 0.0);
    for (count, rule, decayed) in [
        (1, rule, vec![0..1]),
        (129, AdamRule { step: 7, clip: 1.0, ..rule }, vec![0..129]),
        // Spans as a bundle may have them: empty, of one element, next to each other, nowhere aligned.
        (
            5003,
            AdamRule { step: 1000, clip: 1e6, beta2: 0.999, ..rule },
            vec![0..0, 3..4, 5..1031, 1031..4999],
        ),
        (
            40_001,
            AdamRule { step: 3, decay: 30.0, clip: 1.0, ..rule },
            vec![1..16_383, 16_384..16_385, 32_771..32_771],
        ),
        (65, AdamRule { step: 100_000, epsilon: 1e-3, ..rule }, vec![]),
    ] {
        cases.push(updates(count, rule, decayed));
    }
    for e in [1, 2, 7, 64, 129] {
        cases.push(Case::new("balance_bias", format!("e {e}"), move |bench| balance_bias(bench, e)));
    }
    for [t, e] in [[1, 1], [7, 13], [130, 64]] {
        cases.push(Case::new("warm_logits", format!("t {t} e {e}"), move |bench| warm_logits(bench, [t, e])));
    }
    cases
}

/// A rule as in real training.
pub(super) fn rule(step: u64, clip: f64) -> AdamRule {
    AdamRule { rate: 3e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, step, clip }
}

/// A step of `count` elements, of which those in `decayed` decay.
pub(super) fn updates(count: usize, rule: AdamRule, decayed: Vec<Range<usize>>) -> Case {
    let label = format!("{count} {rule:?} {decayed:?}");
    Case::new("adamw", label, move |bench| adamw(bench, count, rule, &decayed))
}

fn adamw(
    bench: &mut Bench<'_>,
    count: usize,
    rule: AdamRule,
    decayed: &[Range<usize>],
) -> Result<Vec<Output>> {
    let (parameter, gradient) = (bench.scaled_sums(&[count], 0.02)?, bench.scaled_sums(&[count], 0.1)?);
    let (first, second) = (bench.scaled_sums(&[count], 0.1)?, bench.positive_sums(&[count], 0.01)?);
    let (squares, working) = (bench.zero_sums(&[1])?, bench.zeros(&[count])?);
    // Given, not computed, so that it is the same number on both sides.
    ops::fill(&squares, 6.25)?;
    let copy = bench.rounds().then_some(&working);
    ops::adamw(&parameter, &gradient, [&first, &second], &squares, rule, decayed, copy)?;
    let mut outputs = vec![
        Output::plain("parameter", parameter),
        Output::plain("first", first),
        Output::plain("second", second),
    ];
    outputs.extend(bench.rounds().then(|| Output::plain("working", working)));
    Ok(outputs)
}

/// One load in three is exactly the mean, where there are three.
pub(super) fn balance_bias(bench: &mut Bench<'_>, e: usize) -> Result<Vec<Output>> {
    let loads: Vec<i32> = (0..e)
        .map(|i| if e.is_multiple_of(3) { 100 + (i % 3) as i32 } else { 90 + (i % 5) as i32 })
        .collect();
    let (loads, bias) = (bench.integers(&loads)?, bench.scaled_sums(&[e], 0.01)?);
    ops::balance_bias(&bias, &loads, 1e-3)?;
    Ok(vec![Output::plain("bias", bias)])
}

fn warm_logits(bench: &mut Bench<'_>, [t, e]: [usize; 2]) -> Result<Vec<Output>> {
    let (logits, noise) = (bench.normal_sums(&[t, e])?, bench.normal_sums(&[t, e])?);
    ops::warm_logits(&logits, &noise, 0.3, -0.2, 1.7)?;
    Ok(vec![Output::plain("logits", logits)])
}
