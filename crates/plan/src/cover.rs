//! The cheapest fractional fleet that is fast enough: a covering problem with one row, which the greedy rule solves.
//!
//! To finish a step in `t` seconds, replicas must cover the batch: `sum n_i (t r_i - r_i a_i) >= B`. All ways of one
//! chip share its cards and a price per card, so the way that covers most per card is both the cheapest and the one
//! that goes furthest; taking ways by price per covered token is then best within a chip and between chips. Replicas
//! over two chips share cards with nobody here, which makes the bound looser and keeps it a bound.

use crate::fleet::{Question, Way};

/// Replicas between `low` and `high`, by way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub low: Vec<u32>,
    pub high: Vec<u32>,
}

/// The least sum of weights, and replicas by way, of which at most one is no whole number.
pub(crate) struct Cover {
    pub sum: f64,
    pub counts: Vec<f64>,
}

impl Bounds {
    pub(crate) fn all(question: &Question) -> Bounds {
        let most = |(chip, cards): (usize, u32)| question.cards[chip] / cards;
        let high = question.ways.iter().map(|way| way.uses().map(most).min().unwrap_or(0)).collect();
        Bounds { low: vec![0; question.ways.len()], high }
    }

    /// Lowers what the others' low counts leave no cards for; false where nothing is left.
    pub(crate) fn tighten(&mut self, question: &Question) -> bool {
        let Some(left) = self.left(question) else { return false };
        for (at, way) in question.ways.iter().enumerate() {
            let more = way.uses().map(|(chip, cards)| left[chip] / cards).min().unwrap_or(0);
            self.high[at] = self.high[at].min(self.low[at].saturating_add(more));
        }
        self.low.iter().zip(&self.high).all(|(low, high)| low <= high)
    }

    pub(crate) fn is_point(&self) -> bool {
        self.low == self.high
    }

    /// Cards that the low counts leave, by chip.
    pub(crate) fn left(&self, question: &Question) -> Option<Vec<u32>> {
        let mut left = question.cards.clone();
        for (way, low) in question.ways.iter().zip(&self.low) {
            for (chip, cards) in way.uses() {
                left[chip] = left[chip].checked_sub(low.checked_mul(cards)?)?;
            }
        }
        Some(left)
    }
}

/// The least `sum n_i weight_i` of fleets within the bounds whose step takes at most `step_s`; none where all are slower.
/// `weight` must be the same per card for all ways of a chip.
pub(crate) fn cover(
    question: &Question,
    bounds: &Bounds,
    step_s: f64,
    weight: &dyn Fn(&Way) -> f64,
) -> Option<Cover> {
    let covers = |way: &Way| way.tokens_s * (step_s - way.fixed_s);
    let mut left: Vec<f64> = bounds.left(question)?.into_iter().map(f64::from).collect();
    let mut counts: Vec<f64> = bounds.low.iter().copied().map(f64::from).collect();
    let mut missing = question.batch_tokens;
    let mut sum = 0.0;
    let mut order = Vec::with_capacity(counts.len());
    for (at, way) in question.ways.iter().enumerate() {
        missing -= counts[at] * covers(way);
        sum += counts[at] * weight(way);
        if bounds.high[at] > bounds.low[at] && covers(way) > 0.0 {
            order.push((weight(way) / covers(way), f64::from(way.all_cards()) / covers(way), at));
        }
    }
    // Where nothing has a weight, the ways that need the fewest cards leave the most to the others.
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    for (_, _, at) in order {
        if missing <= 0.0 {
            break;
        }
        let way = &question.ways[at];
        let cards = f64::from(way.cards);
        let room = if way.second.is_some() { f64::INFINITY } else { left[way.chip] / cards };
        let more = (f64::from(bounds.high[at]) - counts[at]).min(room).min(missing / covers(way));
        counts[at] += more;
        if way.second.is_none() {
            left[way.chip] -= more * cards;
        }
        missing -= more * covers(way);
        sum += more * weight(way);
    }
    (missing <= question.batch_tokens * 1e-9).then_some(Cover { sum, counts })
}

/// The shortest and the longest shared step of fleets within the bounds, cards of a chip not counted together.
pub(crate) fn steps_between(question: &Question, bounds: &Bounds) -> [f64; 2] {
    let extreme = |is_better: &dyn Fn(f64, f64) -> bool| {
        let (mut work, mut speed) = (question.batch_tokens, 0.0);
        for (way, &low) in question.ways.iter().zip(&bounds.low) {
            work += f64::from(low) * way.tokens_s * way.fixed_s;
            speed += f64::from(low) * way.tokens_s;
        }
        let mut order: Vec<usize> = (0..question.ways.len()).collect();
        order.sort_by(|&a, &b| question.ways[a].fixed_s.total_cmp(&question.ways[b].fixed_s));
        if is_better(2.0, 1.0) {
            order.reverse();
        }
        for at in order {
            let way = &question.ways[at];
            // More of what takes less (more) than the mean brings the mean down (up).
            if is_better(way.fixed_s, work / speed) {
                let more = f64::from(bounds.high[at] - bounds.low[at]);
                work += more * way.tokens_s * way.fixed_s;
                speed += more * way.tokens_s;
            }
        }
        work / speed
    };
    [extreme(&|a, b| a < b), extreme(&|a, b| a > b)]
}
