//! Time and cost of a fleet: a number of replicas of the model in each of several ways to lay one out, which
//! share every step's batch by speed.
//!
//! A replica in way `i` computes `r_i` tokens per second after `a_i` seconds that each step takes whatever
//! its share. All finish together when a step of `B` tokens lasts `t = (B + sum n_i r_i a_i) / sum n_i r_i`,
//! or as long as the slowest replica's smallest share takes. Exchange, checkpoints and failures come on top;
//! `docs/planner.md` derives this.

use lingot_spec::run::Strategy;

/// One way to use a chip: a replica of the model over some of its cards.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// The chip, as an index into `Question::cards`.
    pub chip: usize,
    /// Cards of that chip in one replica.
    pub cards: u32,
    /// The second chip of a replica that lies on two.
    pub second: Option<Second>,
    /// Tokens per second of one replica once it computes.
    pub tokens_per_s: f64,
    /// Seconds of each step whatever the share of the batch: filling the pipeline, the update.
    pub fixed_s: f64,
    /// Seconds of the shortest step that a replica can take part in: one micro-batch on every card of a
    /// stage.
    pub least_s: f64,
    /// Seconds of one exchange with other replicas, overlapped with nothing.
    pub exchange_s: f64,
    /// Failures per second of one replica.
    pub failures_per_s: f64,
    /// Money per second of one replica.
    pub price_per_s: f64,
}

/// The second chip of a replica that lies on two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// The chip, as an index into `Question::cards`.
    pub chip: usize,
    /// Cards of that chip in one replica.
    pub cards: u32,
    /// Its share of the replica's work, for caps on vendors.
    pub share: f64,
    /// Its part of the replica's price, in money per second.
    pub price_per_s: f64,
}

/// How replicas agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// The strategy of a run.
    pub strategy: Strategy,
    /// Steps between two exchanges.
    pub steps_per_exchange: f64,
    /// Whether a step lasts until every replica has done its smallest share.
    pub is_gated: bool,
}

/// A limit on the share of some chips in the fleet's tokens per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Cap {
    /// The vendor whose chips count.
    pub vendor: String,
    /// Whether a chip counts, by chip.
    pub counts: Vec<bool>,
    /// The greatest share that is allowed.
    pub share: f64,
}

/// What to search: the ways to use chips, and the limits of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The ways to lay a replica out.
    pub ways: Vec<Way>,
    /// The ways for replicas to agree.
    pub families: Vec<Family>,
    /// Cards that may be used, by chip.
    pub cards: Vec<u32>,
    /// Tokens of one step.
    pub batch_tokens: f64,
    /// Steps of the run.
    pub steps: f64,
    /// Seconds that one checkpoint takes.
    pub checkpoint_s: f64,
    /// Seconds that a restart after a failure takes.
    pub restart_s: f64,
    /// The longest time of the run.
    pub deadline_s: Option<f64>,
    /// The highest cost of the run.
    pub budget: Option<f64>,
    /// Limits on vendors.
    pub caps: Vec<Cap>,
}

/// A fleet, and the time and cost of the run on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// How it agrees, as an index into `Question::families`.
    pub family: usize,
    /// Replicas, by way.
    pub counts: Vec<u32>,
    /// Seconds of the run.
    pub seconds: f64,
    /// Cost of the run.
    pub money: f64,
    /// Seconds in which one step is computed, without exchange and failures.
    pub compute_s: f64,
    /// Seconds of exchange in the mean step.
    pub exchange_s: f64,
    /// The time of the run over its time without checkpoints and failures.
    pub stretch: f64,
}

impl Question {
    /// Returns the time and cost of the run on that fleet, whether or not the fleet keeps the constraints;
    /// none for an empty one.
    pub fn evaluate(&self, family: usize, counts: &[u32]) -> Option<Fleet> {
        let agree = self.families.get(family)?;
        let used = || self.ways.iter().zip(counts).filter(|(_, count)| **count > 0);
        let sum = |of: &dyn Fn(&Way) -> f64| -> f64 {
            used().map(|(way, count)| f64::from(*count) * of(way)).sum()
        };
        let greatest = |of: &dyn Fn(&Way) -> f64| used().map(|(way, _)| of(way)).fold(0.0, f64::max);
        let speed = sum(&|way| way.tokens_per_s);
        if speed <= 0.0 {
            return None;
        }
        let shared_s = (self.batch_tokens + sum(&|way| way.tokens_per_s * way.fixed_s)) / speed;
        let compute_s = if agree.is_gated { shared_s.max(greatest(&|way| way.least_s)) } else { shared_s };
        let is_alone = sum(&|_| 1.0) < 1.5;
        let exchange_s =
            if is_alone { 0.0 } else { greatest(&|way| way.exchange_s) / agree.steps_per_exchange };
        let stretch = self.stretch(sum(&|way| way.failures_per_s));
        let seconds = self.steps * stretch * (compute_s + exchange_s);
        let money = seconds * sum(&|way| way.price_per_s);
        Some(Fleet { family, counts: counts.to_vec(), seconds, money, compute_s, exchange_s, stretch })
    }

    /// Time with checkpoints and failures over time without, at the best interval between checkpoints (Young
    /// 1974, Daly 2006).
    pub fn stretch(&self, failures_per_s: f64) -> f64 {
        1.0 + (2.0 * self.checkpoint_s * failures_per_s).sqrt() + failures_per_s * self.restart_s
    }

    /// Whether the fleet keeps every constraint.
    pub fn allows(&self, fleet: &Fleet) -> bool {
        self.has_cards(&fleet.counts)
            && self.deadline_s.is_none_or(|deadline_s| fleet.seconds <= deadline_s)
            && self.budget.is_none_or(|budget| fleet.money <= budget)
            && self.caps.iter().all(|cap| self.share(&fleet.counts, cap) <= cap.share + ROUNDING)
    }

    /// The share of the fleet's tokens per second that counts for the cap.
    pub fn share(&self, counts: &[u32], cap: &Cap) -> f64 {
        let speed = |of: &dyn Fn(&Way) -> f64| -> f64 {
            self.ways
                .iter()
                .zip(counts)
                .map(|(way, count)| f64::from(*count) * way.tokens_per_s * of(way))
                .sum()
        };
        speed(&|way| cap.of(way)) / speed(&|_| 1.0)
    }

    pub(crate) fn has_cards(&self, counts: &[u32]) -> bool {
        let mut left: Vec<i64> = self.cards.iter().map(|&cards| i64::from(cards)).collect();
        for (way, &count) in self.ways.iter().zip(counts) {
            for (chip, cards) in way.uses() {
                left[chip] -= i64::from(cards) * i64::from(count);
            }
        }
        left.iter().all(|&left| left >= 0)
    }
}

impl Way {
    /// The chips of a replica, and how many cards of each.
    pub fn uses(&self) -> impl Iterator<Item = (usize, u32)> + use<> {
        std::iter::once((self.chip, self.cards)).chain(self.second.map(|second| (second.chip, second.cards)))
    }

    /// All cards of a replica.
    pub fn all_cards(&self) -> u32 {
        self.uses().map(|(_, cards)| cards).sum()
    }

    /// Multiplies the price of one chip.
    pub(crate) fn reprice(&mut self, chip: usize, times: f64) {
        let others = self.second.map_or(0.0, |second| second.price_per_s);
        if self.chip == chip {
            self.price_per_s += (times - 1.0) * (self.price_per_s - others);
        }
        if let Some(second) = self.second.as_mut().filter(|second| second.chip == chip) {
            self.price_per_s += (times - 1.0) * second.price_per_s;
            second.price_per_s *= times;
        }
    }
}

impl Cap {
    /// The share of a replica's work that counts for this cap.
    pub(crate) fn of(&self, way: &Way) -> f64 {
        let counts = |chip: usize| if self.counts[chip] { 1.0 } else { 0.0 };
        let second = way.second.map_or(0.0, |second| second.share);
        let other = way.second.map_or(0.0, |second| counts(second.chip));
        (1.0 - second) * counts(way.chip) + second * other
    }
}

/// Relative difference of sums that would be equal without rounding.
pub(crate) const ROUNDING: f64 = 1e-12;
