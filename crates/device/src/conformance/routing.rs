//! Routing: choosing experts, sorting, dispatch and combine.

use super::bench::{Bench, Case, Output};
use crate::error::Result;
use crate::op::RouteRule;
use crate::ops;
use crate::tensor::Tensor;
use lingot_spec::Score;

/// The logits of a case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Logits {
    /// Mean 0 and this deviation.
    Normal(f64),
    /// All experts of a token alike: the lowest indices win.
    Tied,
    /// Zeros and ones: ties within and between groups.
    TwoValues,
    /// The first K experts far above all others.
    OneSided,
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for score in [Score::Softmax, Score::Sigmoid] {
        for renormalise in [true, false] {
            let rule = |choices, [groups, groups_kept]: [usize; 2], scope_tokens| RouteRule {
                score,
                choices,
                groups,
                groups_kept,
                renormalise,
                scale: 2.5,
                scope_tokens,
            };
            for (t, e, rule, logits) in [
                (1, 1, rule(1, [1, 1], 1), Logits::Normal(1.0)),
                (1, 7, rule(2, [1, 1], 1), Logits::Normal(1.0)),
                (65, 13, rule(3, [1, 1], 13), Logits::Normal(1.0)),
                (130, 64, rule(6, [1, 1], 65), Logits::Normal(1.0)),
                (129, 32, rule(8, [8, 4], 129), Logits::Normal(1.0)),
                (7, 6, rule(2, [6, 3], 1), Logits::Normal(1.0)),
                (7, 16, rule(4, [1, 1], 7), Logits::Tied),
                (7, 16, rule(4, [4, 2], 7), Logits::Tied),
                (33, 16, rule(4, [4, 2], 11), Logits::TwoValues),
                (20, 9, rule(2, [1, 1], 5), Logits::OneSided),
                (33, 16, rule(4, [1, 1], 33), Logits::Normal(4.0)),
            ] {
                for biased in [false, true] {
                    let label = format!("t {t} e {e} {logits:?} biased {biased} {rule:?}");
                    let run = move |bench: &mut Bench<'_>| route(bench, [t, e], rule, logits, biased);
                    cases.push(Case::new("route", label, run));
                }
            }
        }
    }
    for [t, k, e, d] in [[1, 1, 1, 1], [1, 2, 7, 5], [7, 3, 13, 65], [130, 6, 64, 33], [65, 2, 2, 129]] {
        let label = format!("t {t} k {k} e {e} d {d}");
        cases.push(Case::new("dispatch", label.clone(), move |bench| travel(bench, [t, k, d], e, e)));
        cases.push(Case::new("dispatch", label + " all to one", move |bench| travel(bench, [t, k, d], e, 1)));
    }
    cases
}

/// An error of one unit in a logit is one of |logit| units in its exponential.
pub(super) fn route(
    bench: &mut Bench<'_>,
    [t, e]: [usize; 2],
    rule: RouteRule,
    kind: Logits,
    biased: bool,
) -> Result<Vec<Output>> {
    let logits = logits(bench, [t, e], rule, kind)?;
    // A bias of few binary digits lets no two scores tie that did not before.
    let bias_values: Vec<f32> = (0..e).map(|i| (i % 3) as f32 * 0.25).collect();
    let bias = bench.device.floats(&bias_values, &[e], bench.kind_of_sums())?;
    let loads = bench.indices(e, 100);
    let (loads, losses) = (bench.integers(&loads)?, bench.zero_sums(&[2])?);
    let routing = ops::route(&logits, biased.then_some(&bias), rule, &loads, &losses)?;
    let d_weights = bench.normal_sums(&[t, rule.choices])?;
    let kind = bench.kind();
    let largest = logits.to_doubles()?.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let grad = |scales, keep| ops::route_grad(&d_weights, &logits, &routing, rule, scales, keep, kind);
    Ok(vec![
        Output::sum("d_logits of the weights", grad([0.0, 0.0], 1.0)?, e).of_size(1.0).condition(largest),
        Output::sum("d_logits of the balance loss", grad([1.0, 0.0], 0.5)?, e)
            .of_size(1.0)
            .condition(largest),
        Output::sum("d_logits of the z loss", grad([0.0, 1.0], 1.0)?, e).of_size(1.0).condition(largest),
        Output::exact("experts", routing.experts_tk.clone()),
        Output::exact("counts", routing.counts_ge.clone()),
        Output::exact("loads", loads),
        Output::sum("weights", routing.weights_tk.clone(), e).condition(largest),
        Output::sum("losses", losses, t.max(e)).condition(largest),
    ])
}

fn logits(bench: &mut Bench<'_>, [t, e]: [usize; 2], rule: RouteRule, kind: Logits) -> Result<Tensor> {
    let values: Vec<f32> = match kind {
        Logits::Normal(deviation) => return bench.scaled_sums(&[t, e], deviation),
        Logits::Tied => (0..t * e).map(|i| (i / e) as f32 * 0.5).collect(),
        Logits::TwoValues => (0..t * e).map(|_| bench.random.below(2) as f32).collect(),
        Logits::OneSided => (0..t * e)
            .map(|i| bench.random.normal() as f32 + if i % e < rule.choices { 9.0 } else { -9.0 })
            .collect(),
    };
    bench.device.floats(&values, &[t, e], bench.kind_of_sums())
}

/// Sort, dispatch and combine, with choices among the first `used` of `e` experts.
pub(super) fn travel(
    bench: &mut Bench<'_>,
    [t, k, d]: [usize; 3],
    e: usize,
    used: usize,
) -> Result<Vec<Output>> {
    let experts = bench.indices(t * k, used);
    let sorted = ops::sort_by_expert(&bench.device.integers(&experts, &[t, k])?, e)?;
    let (x, answers, onto) = (bench.normal(&[t, d])?, bench.normal(&[t * k, d])?, bench.normal(&[t, d])?);
    let sent = ops::dispatch(&x, &sorted.order_r, k)?;
    let combined = ops::combine(&answers, &sorted.places_tk)?;
    ops::combine_onto(&onto, &answers, &sorted.places_tk)?;
    Ok(vec![
        Output::exact("ends", sorted.ends_e),
        Output::exact("order", sorted.order_r),
        Output::exact("places", sorted.places_tk),
        Output::exact("sent", sent),
        Output::sum("combined", combined, k),
        Output::sum("added", onto, k + 1),
    ])
}
