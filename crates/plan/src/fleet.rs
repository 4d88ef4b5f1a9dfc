//! What a fleet takes and costs. A fleet is so many replicas of the model in each of several ways to lay one out; it
//! shares every step's batch by speed.
//!
//! A replica in way `i` computes `r_i` tokens per second after `a_i` seconds that each step takes whatever its share.
//! All finish together when a step of `B` tokens lasts `t = (B + sum n_i r_i a_i) / sum n_i r_i`, or as long as the
//! slowest replica's smallest share takes. Exchange, checkpoints and failures come on top; `docs/planner.md` derives it.

use lingot_spec::run::Strategy;

/// One way to use a chip: a replica of the model over some of its cards.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// Which chip, by its place in `Question::cards`.
    pub chip: usize,
    /// Cards of that chip in one replica.
    pub cards: u32,
    /// Of another chip, where the replica lies on two.
    pub second: Option<Second>,
    /// Speed once it computes.
    pub tokens_s: f64,
    /// Of each step, whatever the share of the batch: filling the pipeline, the update.
    pub fixed_s: f64,
    /// The shortest step that this replica can take part in: one micro-batch everywhere.
    pub least_s: f64,
    /// One exchange with other replicas that hides behind nothing.
    pub exchange_s: f64,
    /// Failures per second of one replica.
    pub failures_s: f64,
    /// Money per second of one replica.
    pub price_s: f64,
}

/// The other chip of a replica that lies on two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    pub chip: usize,
    pub cards: u32,
    /// Of the replica's work, for caps on vendors.
    pub share: f64,
    /// Of the replica's price.
    pub price_s: f64,
}

/// How replicas agree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    pub strategy: Strategy,
    /// Steps between two exchanges.
    pub steps_per_exchange: f64,
    /// Every replica takes part in every step.
    pub is_gated: bool,
}

/// At most this share of the tokens per second comes from these chips.
#[derive(Clone, Debug, PartialEq)]
pub struct Cap {
    pub vendor: String,
    /// By chip: whether it counts.
    pub counts: Vec<bool>,
    pub share: f64,
}

/// What to search for and among what.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub ways: Vec<Way>,
    pub families: Vec<Family>,
    /// Cards that can be had, by chip.
    pub cards: Vec<u32>,
    pub batch_tokens: f64,
    pub steps: f64,
    pub checkpoint_s: f64,
    pub restart_s: f64,
    pub deadline_s: Option<f64>,
    pub budget: Option<f64>,
    pub caps: Vec<Cap>,
}

/// A fleet, and what the whole run takes on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// Which of the question's families.
    pub family: usize,
    /// Replicas, by way.
    pub counts: Vec<u32>,
    pub seconds: f64,
    pub money: f64,
    /// Computing one step, without exchange and failures.
    pub compute_s: f64,
    pub exchange_s: f64,
    /// Time over what it would be without checkpoints and failures.
    pub stretch: f64,
}

impl Question {
    /// What the run takes on that fleet, whether or not it keeps the constraints; nothing for an empty one.
    pub fn evaluate(&self, family: usize, counts: &[u32]) -> Option<Fleet> {
        let agree = self.families.get(family)?;
        let used = || self.ways.iter().zip(counts).filter(|(_, count)| **count > 0);
        let sum = |of: &dyn Fn(&Way) -> f64| -> f64 {
            used().map(|(way, count)| f64::from(*count) * of(way)).sum()
        };
        let greatest = |of: &dyn Fn(&Way) -> f64| used().map(|(way, _)| of(way)).fold(0.0, f64::max);
        let speed = sum(&|way| way.tokens_s);
        if speed <= 0.0 {
            return None;
        }
        let shared_s = (self.batch_tokens + sum(&|way| way.tokens_s * way.fixed_s)) / speed;
        let compute_s = if agree.is_gated { shared_s.max(greatest(&|way| way.least_s)) } else { shared_s };
        let is_alone = sum(&|_| 1.0) < 1.5;
        let exchange_s =
            if is_alone { 0.0 } else { greatest(&|way| way.exchange_s) / agree.steps_per_exchange };
        let stretch = self.stretch(sum(&|way| way.failures_s));
        let seconds = self.steps * stretch * (compute_s + exchange_s);
        let money = seconds * sum(&|way| way.price_s);
        Some(Fleet { family, counts: counts.to_vec(), seconds, money, compute_s, exchange_s, stretch })
    }

    /// Time with checkpoints and failures over time without, at the best interval between checkpoints (Young, Daly).
    pub fn stretch(&self, failures_s: f64) -> f64 {
        1.0 + (2.0 * self.checkpoint_s * failures_s).sqrt() + failures_s * self.restart_s
    }

    /// Whether the fleet keeps every constraint.
    pub fn allows(&self, fleet: &Fleet) -> bool {
        self.has_cards(&fleet.counts)
            && self.deadline_s.is_none_or(|deadline_s| fleet.seconds <= deadline_s)
            && self.budget.is_none_or(|budget| fleet.money <= budget)
            && self.caps.iter().all(|cap| self.share(&fleet.counts, cap) <= cap.share + ROUNDING)
    }

    /// Of the fleet's tokens per second.
    pub fn share(&self, counts: &[u32], cap: &Cap) -> f64 {
        let speed = |of: &dyn Fn(&Way) -> f64| -> f64 {
            self.ways.iter().zip(counts).map(|(way, count)| f64::from(*count) * way.tokens_s * of(way)).sum()
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

    /// At another price of one chip.
    pub(crate) fn reprice(&mut self, chip: usize, times: f64) {
        let others = self.second.map_or(0.0, |second| second.price_s);
        if self.chip == chip {
            self.price_s += (times - 1.0) * (self.price_s - others);
        }
        if let Some(second) = self.second.as_mut().filter(|second| second.chip == chip) {
            self.price_s += (times - 1.0) * second.price_s;
            second.price_s *= times;
        }
    }
}

impl Cap {
    /// The share of a replica's work that counts.
    pub(crate) fn of(&self, way: &Way) -> f64 {
        let counts = |chip: usize| if self.counts[chip] { 1.0 } else { 0.0 };
        let second = way.second.map_or(0.0, |second| second.share);
        let other = way.second.map_or(0.0, |second| counts(second.chip));
        (1.0 - second) * counts(way.chip) + second * other
    }
}

/// Sums of shares that are equal on paper may differ by so much.
pub(crate) const ROUNDING: f64 = 1e-12;
