//! A fleet as a plan: its chips, layout, time and memory in the words of an answer.

use crate::answer::{Chips, Memory, Plan, Policy, Share};
use crate::fleet::{Fleet, Way};
use crate::layout::Layout;
use crate::money::Money;
use crate::planner::Planner;
use crate::stage::Filled;
use crate::times::{Part, Times};
use lingot_spec::run::{Recompute, Strategy};
use std::collections::BTreeMap;

/// Replicas that a fleet has in one way.
struct Used<'a> {
    way: &'a Way,
    layout: &'a Layout,
    count: f64,
}

impl Planner<'_> {
    /// The fleet as a plan; `why` says why it is not the best.
    pub(crate) fn describe(&self, fleet: &Fleet, why: String) -> Plan {
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for (way, &count) in self.question.ways.iter().zip(&fleet.counts) {
            for (chip, cards) in way.uses() {
                *counts.entry(chip).or_default() += u64::from(count) * u64::from(cards);
            }
        }
        let chips_of = |(&at, &count): (&usize, &u64)| Chips {
            chip: self.chips[at].name.clone(),
            vendor: self.chips[at].vendor.clone(),
            count,
        };
        let mut plan = Plan {
            name: String::new(),
            fleet: counts.iter().filter(|(_, count)| **count > 0).map(chips_of).collect(),
            layout: self.layout_words(fleet),
            policy: Some(self.policy(fleet)),
            cost: Money { amount: fleet.money, currency: self.request.currency.clone() },
            seconds: fleet.seconds,
            tokens_per_s: self.request.tokens / fleet.seconds,
            why,
            time: self.time(fleet),
            memory: self.memory(fleet),
            range: None,
        };
        plan.name = plan.fleet_words();
        plan
    }

    fn used(&self, fleet: &Fleet) -> impl Iterator<Item = Used<'_>> {
        let ways = self.question.ways.iter().zip(&self.layouts).zip(fleet.counts.clone());
        ways.filter(|(_, count)| *count > 0).map(|((way, layout), count)| Used {
            way,
            layout,
            count: f64::from(count),
        })
    }

    /// A run has one policy for all its devices: the strongest that a part of the fleet needs.
    fn policy(&self, fleet: &Fleet) -> Policy {
        let recomputes: Vec<Recompute> = self.used(fleet).map(|used| used.layout.shape.recompute).collect();
        let strongest =
            [Recompute::Block, Recompute::Experts].into_iter().find(|one| recomputes.contains(one));
        Policy {
            strategy: self.question.families[fleet.family].strategy,
            recompute: strongest.unwrap_or(Recompute::Nothing),
        }
    }

    fn layout_words(&self, fleet: &Fleet) -> String {
        let agree = match self.question.families[fleet.family].strategy {
            Strategy::EveryStep => "replicas agree every step",
            Strategy::Edit => "EDiT",
            Strategy::AEdit => "A-EDiT",
        };
        let words = self.used(fleet).map(|Used { way, layout, count }| {
            let batch = 100.0 * self.tokens_of(way, fleet) * count / self.question.batch_tokens;
            let (name, shape) = (&self.chips[way.chip].name, layout.shape);
            let (chips, replica) = match way.second.zip(layout.second.as_ref()) {
                Some((second, side)) => {
                    (format!("{name} with {}", self.chips[second.chip].name), side.division.words())
                }
                None => {
                    (name.clone(), format!("{} stages x {} expert cards", shape.stages, shape.expert_cards))
                }
            };
            let recompute = shape.recompute.name();
            format!(
                "{chips}: {count} replicas of {replica}, recompute {recompute}, {batch:.1} % of the batch"
            )
        });
        format!("{agree}; {}", words.collect::<Vec<_>>().join("; "))
    }

    /// Tokens of a step that a replica computes.
    fn tokens_of(&self, way: &Way, fleet: &Fleet) -> f64 {
        let speed: f64 = self.used(fleet).map(|used| used.count * used.way.tokens_per_s).sum();
        let work: f64 =
            self.used(fleet).map(|used| used.count * used.way.tokens_per_s * used.way.fixed_s).sum();
        let step_s = (self.question.batch_tokens + work) / speed;
        (way.tokens_per_s * (step_s - way.fixed_s)).max(0.0)
    }

    /// Seconds of a step by part, as the mean over cards; exchange, checkpoints and failures included.
    fn time(&self, fleet: &Fleet) -> Vec<Share> {
        let cards_of = |used: &Used<'_>| used.count * f64::from(used.way.all_cards());
        let cards: f64 = self.used(fleet).map(|used| cards_of(&used)).sum();
        let mut times = Times::default();
        for used in self.used(fleet) {
            let weight = cards_of(&used) / cards;
            let Used { way, layout, .. } = used;
            if self.request.chips[way.chip].utilisation.is_some() {
                times.add(Part::AsMeasured, weight * fleet.compute_s);
                continue;
            }
            let micros = self.tokens_of(way, fleet) / (way.tokens_per_s * layout.micro.total());
            times.add_times(weight * micros, &layout.micro);
            times.add_times(weight, &layout.fixed);
        }
        let known = times.total();
        let step_s = fleet.compute_s + fleet.exchange_s;
        let all = times
            .with(Part::Waiting, fleet.compute_s - known)
            .with(Part::Exchange, fleet.exchange_s)
            .with(Part::CheckpointsAndFailures, (fleet.stretch - 1.0) * step_s);
        all.shares(1e-6 * step_s)
    }

    /// What fills the fullest card of each way.
    fn memory(&self, fleet: &Fleet) -> Vec<Memory> {
        let of = |chip: usize, filled: &Filled| Memory {
            chip: self.chips[chip].name.clone(),
            has_bytes: self.chips[chip].memory_bytes,
            parts: filled.shares(),
        };
        let both = |Used { way, layout, .. }: Used<'_>| {
            let second = way.second.zip(layout.second.as_ref());
            let second = second.map(|(second, side)| of(second.chip, &side.memory));
            std::iter::once(of(way.chip, &layout.memory)).chain(second).collect::<Vec<_>>()
        };
        self.used(fleet).flat_map(both).collect()
    }
}
