//! The best fleet: branch and bound over boxes of counts and windows of the step's time, best bound first.
//!
//! Terms, defined in `fleet`:
//! * question: what to search, that is ways, families and limits;
//! * way: one layout of a replica on a chip or two;
//! * family: how replicas agree (a strategy and its steps per exchange);
//! * cap: a limit on a vendor's share of the fleet's tokens per second;
//! * card: one accelerator; a chip is a type of accelerator;
//! * share: a fraction between 0 and 1; a replica's share is its part of a step's batch.
//!
//! A box is a range of replica counts by way; a node of the search is a box in a window of time. In a window,
//! a step takes at least the window's start, and a box costs at least, per second, what the cheapest
//! fractional fleet able to finish the step by the window's end costs (`cover`). Windows are halved until
//! they are narrow, then boxes are split at a fractional count of that fleet. Rounding it up gives the
//! incumbents, the fleets to beat.

use crate::cover::{Bounds, cheapest, cover, steps_between};
use crate::fleet::{Cap, Fleet, Question, ROUNDING};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What a search minimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// The cost of the run.
    Money,
    /// The time of the run.
    Seconds,
}

/// The limits of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Nodes (a box in a window of time) expanded at most.
    pub boxes: usize,
    /// The search stops at a fleet within this share of the best possible one.
    pub gap: f64,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The best fleet found.
    pub best: Option<Fleet>,
    /// No fleet is better by more than this share; 0 where the fleet is proven to be the best.
    pub gap: f64,
    /// Nodes expanded: boxes in a window of time that were divided.
    pub boxes: usize,
}

impl Effort {
    /// Searches until the best fleet is proven optimal.
    pub const PROOF: Effort = Effort { boxes: usize::MAX, gap: 0.0 };
}

/// Windows of time are halved until their ends differ by this share of what one replica changes.
const NARROW: f64 = 0.25;

/// Windows whose ends differ by less than this share are never halved.
const NARROWEST: f64 = 5e-4;

/// Returns the best fleet that keeps the constraints.
pub fn search(question: &Question, least: Least, effort: Effort) -> Found {
    Search { question, least, best: None, heap: BinaryHeap::new() }.run(effort)
}

struct Search<'a> {
    question: &'a Question,
    least: Least,
    best: Option<Fleet>,
    heap: BinaryHeap<Node>,
}

/// Fleets of one family within a box whose step takes between `from_s` and `to_s`, exchange left out.
struct Node {
    bound: f64,
    family: usize,
    bounds: Bounds,
    from_s: f64,
    to_s: f64,
    /// The cheapest fractional fleet.
    counts: Vec<f64>,
}

impl Search<'_> {
    fn run(mut self, effort: Effort) -> Found {
        for family in 0..self.question.families.len() {
            let bounds = Bounds::all(self.question);
            let slowest = |at: f64, way: &crate::fleet::Way| {
                at.max(self.question.batch_tokens / way.tokens_per_s + way.fixed_s + way.least_s)
            };
            let to_s = self.question.ways.iter().fold(0.0, slowest);
            self.look(family, bounds, 0.0, to_s);
        }
        let mut boxes = 0;
        while let Some(node) = self.heap.pop() {
            let best = self.best.as_ref().map_or(f64::INFINITY, |best| self.value(best));
            if node.bound >= best * (1.0 - effort.gap.max(ROUNDING)) || boxes >= effort.boxes {
                self.polish();
                let best = self.best.as_ref().map_or(f64::INFINITY, |best| self.value(best));
                let gap = if node.bound >= best * (1.0 - ROUNDING) { 0.0 } else { 1.0 - node.bound / best };
                return Found { best: self.best, gap, boxes };
            }
            boxes += 1;
            self.divide(&node);
        }
        Found { best: self.best, gap: 0.0, boxes }
    }

    fn value(&self, fleet: &Fleet) -> f64 {
        match self.least {
            Least::Money => fleet.money,
            Least::Seconds => fleet.seconds,
        }
    }

    /// Bounds the fleets of a box and a window, and queues them if one may be better than the best.
    fn look(&mut self, family: usize, mut bounds: Bounds, mut from_s: f64, mut to_s: f64) {
        let question = self.question;
        if !bounds.tighten(question) {
            return;
        }
        if bounds.is_point() {
            self.offer(family, &bounds.low);
            return;
        }
        let agree = question.families[family];
        let low = || question.ways.iter().zip(&bounds.low).filter(|(_, low)| **low > 0);
        let greatest =
            |of: &dyn Fn(&crate::fleet::Way) -> f64| low().map(|(way, _)| of(way)).fold(0.0, f64::max);
        let is_alone = low().map(|(_, low)| *low).sum::<u32>() < 2;
        let exchange_s =
            if is_alone { 0.0 } else { greatest(&|way| way.exchange_s) / agree.steps_per_exchange };
        let least_s = if agree.is_gated { greatest(&|way| way.least_s) } else { 0.0 };
        let failures_per_s: f64 = low().map(|(way, low)| f64::from(*low) * way.failures_per_s).sum();
        let longest_s = question.deadline_s.map_or(f64::INFINITY, |deadline_s| {
            deadline_s / (question.steps * question.stretch(failures_per_s)) - exchange_s
        });
        let [shortest, longest] = steps_between(question, &bounds);
        from_s = from_s.max(least_s).max(shortest);
        to_s = to_s.min(longest_s).min(longest.max(if agree.is_gated { f64::INFINITY } else { 0.0 }));
        if from_s > to_s * (1.0 + ROUNDING) {
            return;
        }
        if agree.is_gated && !self.drop_slow(&mut bounds, to_s) {
            return;
        }
        let Some(cheapest) = cheapest(question, &bounds, to_s) else { return };
        let failures =
            cover(question, &bounds, to_s, &|way| way.failures_per_s).map_or(0.0, |cover| cover.sum);
        let seconds = question.steps * question.stretch(failures) * (from_s + exchange_s);
        let money = seconds * cheapest.sum;
        if !self.may_hold(&bounds, seconds, money) {
            return;
        }
        self.round(family, &bounds, &cheapest.counts);
        let bound = if self.least == Least::Money { money } else { seconds };
        if self.best.as_ref().is_none_or(|best| bound < self.value(best) * (1.0 - ROUNDING)) {
            self.heap.push(Node { bound, family, bounds, from_s, to_s, counts: cheapest.counts });
        }
    }

    /// Excludes replicas whose smallest share takes longer than the step; false where the box requires one of
    /// them.
    fn drop_slow(&self, bounds: &mut Bounds, to_s: f64) -> bool {
        for (at, way) in self.question.ways.iter().enumerate() {
            if way.least_s > to_s * (1.0 + ROUNDING) {
                bounds.high[at] = 0;
            }
        }
        bounds.low.iter().zip(&bounds.high).all(|(low, high)| low <= high)
    }

    /// Whether a box of such bounds may hold an allowed fleet.
    fn may_hold(&self, bounds: &Bounds, seconds: f64, money: f64) -> bool {
        let question = self.question;
        let above = 1.0 + ROUNDING;
        question.deadline_s.is_none_or(|deadline_s| seconds <= deadline_s * above)
            && question.budget.is_none_or(|budget| money <= budget * above)
            && question.caps.iter().all(|cap| {
                // NaN (0 / 0) where no replica of the box has a speed: no share that a cap could refuse.
                let share = least_share(question, bounds, cap);
                share.is_nan() || share <= cap.share + 2.0 * ROUNDING
            })
    }

    /// Offers whole fleets near a fractional one.
    fn round(&mut self, family: usize, bounds: &Bounds, counts: &[f64]) {
        // A count that rounding errors put a little above a whole number is not rounded up to the next.
        let up: Vec<u32> = counts
            .iter()
            .zip(&bounds.high)
            .map(|(count, high)| ((count - 1e-9).ceil() as u32).min(*high))
            .collect();
        self.offer(family, &up);
        if !self.question.has_cards(&up)
            && let Some(mut left) = bounds.left(self.question)
        {
            let mut kept = bounds.low.clone();
            for (at, way) in self.question.ways.iter().enumerate() {
                let room = way.uses().map(|(chip, cards)| left[chip] / cards).min().unwrap_or(0);
                let more = (up[at] - kept[at]).min(room);
                way.uses().for_each(|(chip, cards)| left[chip] -= cards * more);
                kept[at] += more;
            }
            self.offer(family, &kept);
        }
    }

    fn offer(&mut self, family: usize, counts: &[u32]) {
        let Some(fleet) = self.question.evaluate(family, counts) else { return };
        let key = |fleet: &Fleet| match self.least {
            Least::Money => (fleet.money, fleet.seconds),
            Least::Seconds => (fleet.seconds, fleet.money),
        };
        if self.question.allows(&fleet) && self.best.as_ref().is_none_or(|best| key(&fleet) < key(best)) {
            self.best = Some(fleet);
        }
    }

    /// Tries adding, removing or swapping one replica, for as long as that is better.
    fn polish(&mut self) {
        while let Some(best) = self.best.clone() {
            let ways = best.counts.len();
            for (less, more) in (0..=ways).flat_map(|less| (0..=ways).map(move |more| (less, more))) {
                let mut counts = best.counts.clone();
                if less < ways && counts[less] == 0 {
                    continue;
                }
                counts.iter_mut().skip(less).take(1).for_each(|count| *count -= 1);
                counts.iter_mut().skip(more).take(1).for_each(|count| *count += 1);
                (0..self.question.families.len()).for_each(|family| self.offer(family, &counts));
            }
            if self.best.as_ref() == Some(&best) {
                return;
            }
        }
    }

    /// Halves the node's window, or splits its box where the window is narrow, and looks at both parts.
    fn divide(&mut self, node: &Node) {
        let replica = NARROW / (1.0 + node.counts.iter().sum::<f64>());
        if node.to_s > node.from_s * (1.0 + replica.max(NARROWEST)) {
            // The geometric mean; the least start keeps a window that begins at 0 from a middle of 0.
            let middle = (node.from_s.max(node.to_s * 1e-9) * node.to_s).sqrt();
            self.look(node.family, node.bounds.clone(), node.from_s, middle);
            self.look(node.family, node.bounds.clone(), middle, node.to_s);
            return;
        }
        let fraction = |count: f64| (count - count.round()).abs();
        // A count this near to a whole number is one, but for rounding errors.
        let broken = node.counts.iter().position(|&count| fraction(count) > 1e-6);
        let (at, last) = broken.map_or_else(
            || {
                let width = |at: usize| {
                    f64::from(node.bounds.high[at] - node.bounds.low[at])
                        * self.question.ways[at].tokens_per_s
                };
                let widest =
                    (0..node.counts.len()).max_by(|&a, &b| width(a).total_cmp(&width(b))).unwrap_or(0);
                (widest, node.bounds.low[widest] + (node.bounds.high[widest] - node.bounds.low[widest]) / 2)
            },
            |at| (at, node.counts[at].floor() as u32),
        );
        let (mut below, mut above) = (node.bounds.clone(), node.bounds.clone());
        below.high[at] = last;
        above.low[at] = last + 1;
        self.look(node.family, below, node.from_s, node.to_s);
        self.look(node.family, above, node.from_s, node.to_s);
    }
}

/// The least share of a cap in any fleet of a box: what counts less than the mean brings the mean down.
fn least_share(question: &Question, bounds: &Bounds, cap: &Cap) -> f64 {
    let ways = || question.ways.iter().zip(bounds.low.iter().zip(&bounds.high));
    let (mut counted, mut speed) = (0.0, 0.0);
    for (way, (&low, _)) in ways() {
        counted += f64::from(low) * way.tokens_per_s * cap.of(way);
        speed += f64::from(low) * way.tokens_per_s;
    }
    let mut order: Vec<(f64, f64)> =
        ways().map(|(way, (low, high))| (cap.of(way), f64::from(high - low) * way.tokens_per_s)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (of, more) in order {
        if speed <= 0.0 || of * speed < counted {
            counted += of * more;
            speed += more;
        }
    }
    counted / speed
}

/// The least bound comes first.
impl Ord for Node {
    fn cmp(&self, other: &Node) -> Ordering {
        other.bound.total_cmp(&self.bound)
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Node) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Node {}
