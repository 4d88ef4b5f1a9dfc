//! A request and a catalogue become an answer: ways to lay the model out, searches over fleets of them, and words.

use crate::answer::{Answer, Chips, Memory, Plan, Policy, Share};
use crate::catalogue::{Catalogue, Chip};
use crate::explain;
use crate::fleet::{Cap, Family, Fleet, Question, Second, Way};
use crate::layout::{Drawer, Layout, USABLE_MEMORY, fewest_cards};
use crate::money::Money;
use crate::pair::{Pair, Spread, spreads};
use crate::profile::Profile;
use crate::request::{Objective, Request};
use crate::search::{Effort, Found, Least, search};
use crate::validate::nearest;
use lingot_spec::ModelSpec;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::{Recompute, Strategy};
use std::collections::BTreeMap;

/// Of the main search, and of each of those that explain it.
pub(crate) const MAIN: Effort = Effort { boxes: 20_000, gap: 1e-4 };
pub(crate) const OTHER: Effort = Effort { boxes: 2_000, gap: 1e-3 };

/// A box takes time in proportion to the ways; with more than so many, fewer boxes are looked at.
const WAYS: usize = 20;

/// Cards of a chip are scarce where they make fewer replicas than this.
const SCARCE: u32 = 4;

/// A request in numbers: what there is to search.
pub struct Planner<'a> {
    pub request: &'a Request,
    pub model: ModelSpec,
    pub chips: Vec<&'a Chip>,
    /// By way, in the order of the question's.
    pub layouts: Vec<Layout>,
    pub question: Question,
    /// Chips that cannot be used: name, reason, found, limit.
    pub unusable: Vec<[String; 4]>,
}

/// The answer to a request; that nothing fits is an answer too. Profiles are by chip, where one was measured.
pub fn plan(
    request: &Request,
    catalogue: &Catalogue,
    profiles: &BTreeMap<String, Profile>,
) -> Result<Answer> {
    Ok(explain::answer(&Planner::new(request, catalogue, profiles)?))
}

impl<'a> Planner<'a> {
    pub fn new(
        request: &'a Request,
        catalogue: &'a Catalogue,
        profiles: &BTreeMap<String, Profile>,
    ) -> Result<Planner<'a>> {
        request.check()?;
        let model = request.model()?;
        let chips: Vec<&Chip> =
            request.chips.iter().map(|used| catalogue.chip(&used.name)).collect::<Result<_>>()?;
        check_vendors(request, &chips)?;
        let mut planner = Planner {
            request,
            question: question(request, &chips)?,
            model,
            chips,
            layouts: Vec::new(),
            unusable: Vec::new(),
        };
        for at in 0..planner.chips.len() {
            planner.add_chip(at, profiles)?;
        }
        planner.add_pairs(profiles)?;
        Ok(planner)
    }

    pub fn search(&self, question: &Question, least: Least, effort: Effort) -> Found {
        let boxes = effort.boxes * WAYS / question.ways.len().max(WAYS);
        search(question, least, Effort { boxes, ..effort })
    }

    pub fn least(&self) -> Least {
        if self.request.objective == Objective::Money { Least::Money } else { Least::Seconds }
    }

    /// Cards of a chip that can be had, whether or not its vendor is excluded.
    pub(crate) fn available(&self, at: usize) -> u32 {
        self.request.chips[at].available.unwrap_or(self.chips[at].available)
    }

    /// The question without the chips of a vendor.
    pub fn without(&self, vendor: &str) -> Question {
        let mut question = self.question.clone();
        for (cards, chip) in question.cards.iter_mut().zip(&self.chips) {
            if chip.vendor.eq_ignore_ascii_case(vendor) {
                *cards = 0;
            }
        }
        question
    }

    fn add_chip(&mut self, at: usize, profiles: &BTreeMap<String, Profile>) -> Result<()> {
        let (chip, used) = (self.chips[at], &self.request.chips[at]);
        let per_hour = price(chip, self.request)?;
        let profile = profiles.get(&used.name);
        let drawer = Drawer { request: self.request, model: &self.model, chip, profile };
        let all = drawer.all();
        let least = fewest_cards(all.iter().filter(|layout| drawer.fits(layout)));
        let Some(least) = least else {
            let least = all.iter().map(Layout::memory_bytes).fold(f64::INFINITY, f64::min);
            self.unusable.push([
                format!("{} alone", chip.name),
                format!("no layout fits into {:.0} % of a card's memory", 100.0 * USABLE_MEMORY),
                format!("{:.1} GB", least / 1e9),
                format!("{:.1} GB", chip.memory_bytes * USABLE_MEMORY / 1e9),
            ]);
            return Ok(());
        };
        if least.cards > self.question.cards[at] {
            self.unusable.push([
                format!("{} alone", chip.name),
                "one replica needs more cards than there are".into(),
                format!("{} cards", least.cards),
                format!("{} cards", self.question.cards[at]),
            ]);
        }
        let layouts = if used.utilisation.is_some() { vec![least.clone()] } else { drawer.best(&all) };
        for layout in layouts {
            self.question.ways.push(self.way(at, &layout, per_hour));
            self.layouts.push(layout);
        }
        Ok(())
    }

    /// Replicas over two chip types, where neither's speed is given as measured.
    fn add_pairs(&mut self, profiles: &BTreeMap<String, Profile>) -> Result<()> {
        let (request, model) = (self.request, self.model.clone());
        let chips = self.chips.clone();
        let drawer = |at: usize| {
            let profile = profiles.get(&request.chips[at].name);
            Drawer { request, model: &model, chip: chips[at], profile }
        };
        let is_modelled = |at: &usize| request.chips[*at].utilisation.is_none();
        let modelled: Vec<usize> = (0..chips.len()).filter(is_modelled).collect();
        let is_alone = modelled.len() < 2;
        let pieces = |&at: &usize| (at, if is_alone { Vec::new() } else { spreads(&drawer(at)) });
        let pieces: Vec<(usize, Vec<Spread>)> = modelled.iter().map(pieces).collect();
        let alone = |chip: usize| -> Vec<Layout> {
            let ways = self.question.ways.iter().zip(&self.layouts);
            ways.filter(|(way, _)| way.chip == chip).map(|(_, layout)| layout.clone()).collect()
        };
        let own: Vec<Vec<Layout>> = (0..chips.len()).map(alone).collect();
        // With more of them, replicas over two types to use up what is left over gain little.
        let is_scarce = |chip: usize| {
            let least = own[chip].iter().map(|layout| layout.cards).min();
            least.is_none_or(|cards| self.available(chip) / cards < SCARCE)
        };
        let is_scarce: Vec<bool> = (0..chips.len()).map(is_scarce).collect();
        for (at, one) in pieces.iter().enumerate() {
            for another in &pieces[at + 1..] {
                let is_larger = chips[one.0].memory_bytes >= chips[another.0].memory_bytes;
                let [(first, a), (other, b)] = if is_larger { [one, another] } else { [another, one] };
                let drawers = [&drawer(*first), &drawer(*other)];
                let pair = Pair { drawers, pieces: [a.as_slice(), b.as_slice()] };
                for layout in pair.best([&own[*first], &own[*other]], is_scarce[*first] || is_scarce[*other])
                {
                    let way = self.paired([*first, *other], &layout)?;
                    self.question.ways.push(way);
                    self.layouts.push(layout);
                }
            }
        }
        Ok(())
    }

    fn paired(&self, [first, other]: [usize; 2], layout: &Layout) -> Result<Way> {
        let alone = self.way(first, layout, price(self.chips[first], self.request)?);
        let Some(side) = &layout.second else { return Ok(alone) };
        let cards = f64::from(side.cards);
        let price_s = cards * price(self.chips[other], self.request)? / 3600.0;
        let failures_s = cards * self.request.assume.failures_per_device_hour / 3600.0;
        let second = Second { chip: other, cards: side.cards, share: side.share, price_s };
        Ok(Way {
            second: Some(second),
            price_s: alone.price_s + price_s,
            failures_s: alone.failures_s + failures_s,
            ..alone
        })
    }

    fn way(&self, at: usize, layout: &Layout, per_hour: f64) -> Way {
        let cards = f64::from(layout.cards);
        let price_s = cards * per_hour / 3600.0;
        if let Some(utilisation) = self.request.chips[at].utilisation {
            let flops = 6.0 * self.model.activated_parameters() as f64;
            let tokens_s = cards * utilisation * self.chips[at].peak() / flops;
            return Way {
                chip: at,
                cards: layout.cards,
                second: None,
                tokens_s,
                fixed_s: 0.0,
                least_s: 0.0,
                exchange_s: 0.0,
                failures_s: 0.0,
                price_s,
            };
        }
        Way {
            chip: at,
            cards: layout.cards,
            second: None,
            tokens_s: layout.tokens_s,
            fixed_s: layout.fixed_s(),
            least_s: layout.fixed_s() + layout.micro_s(),
            exchange_s: layout.exchange_s,
            failures_s: cards * self.request.assume.failures_per_device_hour / 3600.0,
            price_s,
        }
    }

    /// A fleet as a plan in words.
    pub fn describe(&self, fleet: &Fleet, why: String) -> Plan {
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for (way, &count) in self.question.ways.iter().zip(&fleet.counts) {
            for (chip, cards) in way.uses() {
                *counts.entry(chip).or_default() += u64::from(count) * u64::from(cards);
            }
        }
        let fleet_of = |(&at, &count): (&usize, &u64)| Chips {
            chip: self.chips[at].name.clone(),
            vendor: self.chips[at].vendor.clone(),
            count,
        };
        let mut plan = Plan {
            name: String::new(),
            fleet: counts.iter().filter(|(_, count)| **count > 0).map(fleet_of).collect(),
            layout: self.layout_words(fleet),
            policy: Some(self.policy(fleet)),
            cost: Money { amount: fleet.money, currency: self.request.currency.clone() },
            seconds: fleet.seconds,
            tokens_per_s: self.request.tokens / fleet.seconds,
            why,
            time: self.time(fleet),
            memory: self.memory(fleet),
        };
        plan.name = plan.fleet_words();
        plan
    }

    fn used(&self, fleet: &'a Fleet) -> impl Iterator<Item = (&Way, &Layout, u32)> {
        let ways = self.question.ways.iter().zip(&self.layouts).zip(&fleet.counts);
        ways.filter(|(_, count)| **count > 0).map(|((way, layout), count)| (way, layout, *count))
    }

    /// A run has one policy for all: the strongest that a part of the fleet needs.
    fn policy(&self, fleet: &Fleet) -> Policy {
        let recomputes: Vec<Recompute> = self.used(fleet).map(|(_, layout, _)| layout.recompute).collect();
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
        let words = self.used(fleet).map(|(way, layout, count)| {
            let batch = 100.0 * self.tokens_of(way, fleet) * f64::from(count) / self.question.batch_tokens;
            if let Some((second, other)) = way.second.zip(layout.second.as_ref()) {
                return format!(
                    "{} with {}: {count} replicas of {}, recompute {}, {batch:.1} % of the batch",
                    self.chips[way.chip].name,
                    self.chips[second.chip].name,
                    other.words,
                    layout.recompute.name()
                );
            }
            format!(
                "{}: {count} replicas of {} stages x {} expert cards, recompute {}, {batch:.1} % of the batch",
                self.chips[way.chip].name,
                layout.stages,
                layout.expert_cards,
                layout.recompute.name()
            )
        });
        format!("{agree}; {}", words.collect::<Vec<_>>().join("; "))
    }

    /// A replica's share of a step.
    fn tokens_of(&self, way: &Way, fleet: &Fleet) -> f64 {
        let shared: f64 = self.used(fleet).map(|(way, _, count)| f64::from(count) * way.tokens_s).sum();
        let work: f64 =
            self.used(fleet).map(|(way, _, count)| f64::from(count) * way.tokens_s * way.fixed_s).sum();
        let step_s = (self.question.batch_tokens + work) / shared;
        (way.tokens_s * (step_s - way.fixed_s)).max(0.0)
    }

    /// Of a step, the mean over cards, by part; exchange, checkpoints and failures included.
    fn time(&self, fleet: &Fleet) -> Vec<Share> {
        let cards: f64 = self.used(fleet).map(|(way, _, count)| f64::from(count * way.all_cards())).sum();
        let mut parts: BTreeMap<&str, f64> = BTreeMap::new();
        for (way, layout, count) in self.used(fleet) {
            let weight = f64::from(count * way.all_cards()) / cards;
            if self.request.chips[way.chip].utilisation.is_some() {
                *parts.entry("all, as measured").or_default() += weight * fleet.compute_s;
                continue;
            }
            let micros = self.tokens_of(way, fleet) / (way.tokens_s * layout.micro_s());
            for (part, seconds) in &layout.micro {
                *parts.entry(part).or_default() += weight * micros * seconds;
            }
            for (part, seconds) in &layout.fixed {
                *parts.entry(part).or_default() += weight * seconds;
            }
        }
        let known: f64 = parts.values().sum();
        let step_s = fleet.compute_s + fleet.exchange_s;
        parts.insert("waiting for the slowest", fleet.compute_s - known);
        parts.insert("exchange", fleet.exchange_s);
        parts.insert("checkpoints and failures", (fleet.stretch - 1.0) * step_s);
        let parts = parts.into_iter().filter(|(_, seconds)| *seconds > 1e-6 * step_s);
        let mut parts: Vec<Share> =
            parts.map(|(part, amount)| Share { part: part.to_owned(), amount }).collect();
        parts.sort_by(|a, b| b.amount.total_cmp(&a.amount));
        parts
    }

    fn memory(&self, fleet: &Fleet) -> Vec<Memory> {
        let of = |chip: usize, parts: &[(&'static str, f64)]| Memory {
            chip: self.chips[chip].name.clone(),
            has_bytes: self.chips[chip].memory_bytes,
            parts: parts
                .iter()
                .map(|(part, bytes)| Share { part: (*part).to_owned(), amount: *bytes })
                .collect(),
        };
        let both = |(way, layout, _): (&'_ Way, &'_ Layout, u32)| {
            let second = way.second.zip(layout.second.as_ref());
            let second = second.map(|(second, other)| of(second.chip, &other.memory));
            std::iter::once(of(way.chip, &layout.memory)).chain(second).collect::<Vec<_>>()
        };
        self.used(fleet).flat_map(both).collect()
    }
}

/// All but the ways.
fn question(request: &Request, chips: &[&Chip]) -> Result<Question> {
    let limits = &request.constraints;
    let is_out = |chip: &Chip| limits.without.iter().any(|vendor| vendor.eq_ignore_ascii_case(&chip.vendor));
    let cards = |(used, chip): (&crate::request::ChipUse, &&Chip)| {
        if is_out(chip) { 0 } else { used.available.unwrap_or(chip.available) }
    };
    let local_steps = f64::from(request.assume.local_steps);
    let family = |strategy: &Strategy| Family {
        strategy: *strategy,
        steps_per_exchange: if *strategy == Strategy::EveryStep { 1.0 } else { local_steps },
        is_gated: *strategy != Strategy::AEdit,
    };
    let cap = |(vendor, share): (&String, &f64)| Cap {
        vendor: vendor.clone(),
        counts: chips.iter().map(|chip| chip.vendor.eq_ignore_ascii_case(vendor)).collect(),
        share: *share,
    };
    let batch_tokens = f64::from(request.batch_sequences) * f64::from(request.sequence);
    let budget = limits.budget.as_ref().map(|budget| budget.exchanged(&request.currency, &request.rates));
    Ok(Question {
        ways: Vec::new(),
        families: request.strategies.iter().map(family).collect(),
        cards: request.chips.iter().zip(chips).map(cards).collect(),
        batch_tokens,
        steps: request.tokens / batch_tokens,
        checkpoint_s: request.assume.checkpoint_s,
        restart_s: request.assume.restart_s,
        deadline_s: limits.deadline_hours.map(|hours| hours * 3600.0),
        budget: budget.transpose()?.map(|budget| budget.amount),
        caps: limits.max_share.iter().map(cap).collect(),
    })
}

fn price(chip: &Chip, request: &Request) -> Result<f64> {
    let Some(price) = &chip.price else {
        return Err(Problem::new(
            format!("chip `{}` has no price in the catalogue", chip.name),
            format!(
                "give one with --chips FILE: [[override]] name = \"{}\" and price = {{ ... }}",
                chip.name
            ),
        ));
    };
    let money = Money { amount: price.per_hour, currency: price.currency.clone() };
    Ok(money.exchanged(&request.currency, &request.rates)?.amount)
}

fn check_vendors(request: &Request, chips: &[&Chip]) -> Result<()> {
    let limits = &request.constraints;
    for vendor in limits.without.iter().chain(limits.max_share.keys()) {
        if !chips.iter().any(|chip| chip.vendor.eq_ignore_ascii_case(vendor)) {
            let hint = nearest(vendor, chips.iter().map(|chip| chip.vendor.as_str()));
            return Err(Problem::new(format!("no chip of the request is of the vendor `{vendor}`"), hint));
        }
    }
    Ok(())
}
