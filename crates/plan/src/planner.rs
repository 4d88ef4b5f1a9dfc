//! A request and a catalogue become a question to the search: ways to lay the model out, and limits.

use crate::answer::Answer;
use crate::catalogue::{Catalogue, Chip};
use crate::explain;
use crate::fleet::{Cap, Family, Question, Second, Way};
use crate::floors::Pace;
use crate::layout::{Layout, Placer, fewest_cards};
use crate::money::Money;
use crate::pair::{Pair, Variant, variants};
use crate::profile::Profile;
use crate::rejected::{Reason, Rejection};
use crate::request::{ChipUse, Objective, Request};
use crate::search::{Effort, Found, Least, search};
use crate::validate::nearest;
use lingot_spec::ModelSpec;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::Strategy;
use std::collections::BTreeMap;

/// The effort of the main search.
pub(crate) const MAIN: Effort = Effort { boxes: 60_000, gap: 1e-4 };
/// The effort of each search that explains the main one.
pub(crate) const EXPLANATORY: Effort = Effort { boxes: 2_000, gap: 1e-3 };

/// A box takes time in proportion to the ways; with more ways than this, fewer boxes are looked at.
const WAYS: usize = 20;

/// Cards of a chip are scarce where they make fewer replicas than this.
const SCARCE: u32 = 4;

/// A request in numbers: what there is to search.
pub(crate) struct Planner<'a> {
    pub request: &'a Request,
    pub model: ModelSpec,
    /// The catalogue's rows, in the order of the request's chips.
    pub chips: Vec<&'a Chip>,
    /// By way, in the order of the question's.
    pub layouts: Vec<Layout>,
    pub question: Question,
    /// Chips that cannot be used alone.
    pub unusable: Vec<Rejection>,
    profiles: &'a BTreeMap<String, Profile>,
}

/// Answers a request; that nothing fits is an answer too. Profiles are by chip, where one was measured.
///
/// Errors if the request, its model or a price is wrong or missing.
///
/// ```
/// use lingot_plan::{Catalogue, Request, plan};
/// use std::collections::BTreeMap;
///
/// let request = Request::parse(
///     "model = \"ling-lite\"\ntokens = 1e12\ncurrency = \"USD\"\n\
///      chips = [{ name = \"H100\", available = 16 }]",
/// )?;
/// let answer = plan(&request, &Catalogue::built_in()?, &BTreeMap::new())?;
/// let best = answer.best.expect("16 cards hold the model");
/// assert!(best.cost.amount > 0.0 && best.fleet[0].count <= 16);
/// # Ok::<(), lingot_spec::Problem>(())
/// ```
pub fn plan(
    request: &Request,
    catalogue: &Catalogue,
    profiles: &BTreeMap<String, Profile>,
) -> Result<Answer> {
    Ok(explain::answer(&Planner::new(request, catalogue, profiles)?))
}

impl<'a> Planner<'a> {
    fn new(
        request: &'a Request,
        catalogue: &'a Catalogue,
        profiles: &'a BTreeMap<String, Profile>,
    ) -> Result<Planner<'a>> {
        request.check()?;
        let model = request.model()?;
        check_micro_batch(request, &model)?;
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
            profiles,
        };
        for at in 0..planner.chips.len() {
            planner.add_chip(at)?;
        }
        planner.add_pairs()?;
        Ok(planner)
    }

    pub(crate) fn search(&self, question: &Question, least: Least, effort: Effort) -> Found {
        let boxes = effort.boxes * WAYS / question.ways.len().max(WAYS);
        search(question, least, Effort { boxes, ..effort })
    }

    pub(crate) fn least(&self) -> Least {
        if self.request.objective == Objective::Money { Least::Money } else { Least::Seconds }
    }

    /// Cards of a chip that can be had, whether or not its vendor is excluded.
    pub(crate) fn available(&self, at: usize) -> u32 {
        self.request.chips[at].available.unwrap_or(self.chips[at].available)
    }

    /// Whether a limit or a flag names the vendor of this chip.
    pub(crate) fn is_of(&self, at: usize, vendor: &str) -> bool {
        self.chips[at].vendor.eq_ignore_ascii_case(vendor)
    }

    /// The question without the chips of a vendor.
    pub(crate) fn without(&self, vendor: &str) -> Question {
        self.only(|at| !self.is_of(at, vendor))
    }

    /// The question with the chips that `is_in` accepts.
    pub(crate) fn only(&self, is_in: impl Fn(usize) -> bool) -> Question {
        let mut question = self.question.clone();
        for (at, cards) in question.cards.iter_mut().enumerate() {
            *cards = if is_in(at) { *cards } else { 0 };
        }
        question
    }

    fn add_chip(&mut self, at: usize) -> Result<()> {
        let (chip, used) = (self.chips[at], &self.request.chips[at]);
        self.price_per_s(at, 1)?;
        let model = self.model.clone();
        let placer = Placer {
            request: self.request,
            model: &model,
            chip,
            profile: self.profile(at),
            pace: Pace::Likely,
        };
        let all = placer.all();
        let Some(least) = fewest_cards(all.iter().filter(|layout| placer.fits(layout))) else {
            let needs_bytes = all.iter().map(|layout| layout.memory.total()).fold(f64::INFINITY, f64::min);
            let reason = Reason::TooLittleMemory { needs_bytes, usable_bytes: placer.usable_bytes() };
            self.unusable.push(Rejection { chip: at, reason });
            return Ok(());
        };
        if let Some(reason) = self.too_few_cards(at, least.cards) {
            self.unusable.push(Rejection { chip: at, reason });
        }
        let layouts = if used.utilisation.is_some() { vec![least.clone()] } else { placer.best(&all) };
        for layout in layouts {
            self.question.ways.push(self.way(at, &layout)?);
            self.layouts.push(layout);
        }
        Ok(())
    }

    /// Why the cards that may be used make no replica of `needs` cards, where they make none.
    fn too_few_cards(&self, at: usize, needs: u32) -> Option<Reason> {
        let has = self.available(at);
        if needs > has {
            return Some(Reason::TooFewCards { needs, has });
        }
        (needs > self.question.cards[at]).then_some(Reason::VendorExcluded { has })
    }

    /// The same request with other ways.
    pub(crate) fn with(&self, question: Question, layouts: Vec<Layout>) -> Planner<'a> {
        Planner {
            request: self.request,
            model: self.model.clone(),
            chips: self.chips.clone(),
            layouts,
            question,
            unusable: vec![],
            profiles: self.profiles,
        }
    }

    pub(crate) fn profile(&self, at: usize) -> Option<&'a Profile> {
        self.profiles.get(&self.request.chips[at].name)
    }

    /// Adds replicas over two chip types, where neither's speed is given as measured.
    fn add_pairs(&mut self) -> Result<()> {
        let (request, model, chips) = (self.request, self.model.clone(), self.chips.clone());
        let modelled: Vec<usize> =
            (0..chips.len()).filter(|at| request.chips[*at].utilisation.is_none()).collect();
        if modelled.len() < 2 {
            return Ok(());
        }
        let pace = Pace::Likely;
        let placer =
            |at: usize| Placer { request, model: &model, chip: chips[at], profile: self.profile(at), pace };
        let placers: Vec<Placer<'_>> = (0..chips.len()).map(placer).collect();
        let pieces: Vec<(usize, Vec<Variant>)> =
            modelled.iter().map(|&at| (at, variants(&placers[at]))).collect();
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
                let (first, other) = (*first, *other);
                let pair = Pair { placers: [&placers[first], &placers[other]], variants: [a, b] };
                for layout in pair.best([&own[first], &own[other]], is_scarce[first] || is_scarce[other]) {
                    let way = self.paired([first, other], &layout)?;
                    self.question.ways.push(way);
                    self.layouts.push(layout);
                }
            }
        }
        Ok(())
    }

    fn paired(&self, [first, other]: [usize; 2], layout: &Layout) -> Result<Way> {
        let alone = self.way(first, layout)?;
        let Some(side) = &layout.second else { return Ok(alone) };
        let price_per_s = self.price_per_s(other, side.cards)?;
        let second = Second { chip: other, cards: side.cards, share: side.share, price_per_s };
        Ok(Way {
            second: Some(second),
            price_per_s: alone.price_per_s + price_per_s,
            failures_per_s: alone.failures_per_s + self.failures_per_s(side.cards),
            ..alone
        })
    }

    /// A replica on the cards of one chip.
    fn way(&self, at: usize, layout: &Layout) -> Result<Way> {
        let modelled = Way {
            chip: at,
            cards: layout.cards,
            second: None,
            tokens_per_s: layout.tokens_per_s,
            fixed_s: layout.fixed.total(),
            least_s: layout.least_s(),
            exchange_s: layout.exchange_s,
            failures_per_s: self.failures_per_s(layout.cards),
            price_per_s: self.price_per_s(at, layout.cards)?,
        };
        let Some(utilisation) = self.request.chips[at].utilisation else { return Ok(modelled) };
        let flops = 6.0 * self.model.activated_parameters() as f64;
        let tokens_per_s = f64::from(layout.cards) * utilisation * self.chips[at].peak() / flops;
        let micro_s = layout.micro_tokens / tokens_per_s;
        Ok(Way {
            tokens_per_s,
            fixed_s: 0.0,
            // The smallest share still passes through every stage.
            least_s: f64::from(layout.shape.stages) * micro_s,
            exchange_s: 0.0,
            failures_per_s: 0.0,
            ..modelled
        })
    }

    fn failures_per_s(&self, cards: u32) -> f64 {
        f64::from(cards) * self.request.assume.failures_per_device_hour / 3600.0
    }

    /// The price of a number of cards of a chip, in the request's currency.
    fn price_per_s(&self, at: usize, cards: u32) -> Result<f64> {
        let chip = self.chips[at];
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
        let per_hour = money.exchanged(&self.request.currency, &self.request.rates)?.amount;
        Ok(f64::from(cards) * per_hour / 3600.0)
    }
}

/// All of the question but its ways.
fn question(request: &Request, chips: &[&Chip]) -> Result<Question> {
    let limits = &request.constraints;
    let is_out = |chip: &Chip| limits.without.iter().any(|vendor| vendor.eq_ignore_ascii_case(&chip.vendor));
    let cards = |(used, chip): (&ChipUse, &&Chip)| {
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

/// Errors if a micro-batch does not hold whole groups of the sequences over which the model balances its
/// experts.
fn check_micro_batch(request: &Request, model: &ModelSpec) -> Result<()> {
    let (micro, router) = (request.micro_sequences, &model.router);
    let is_routed = model.moe_layers() + model.mtp_layers > 0;
    if !is_routed || router.balance_loss <= 0.0 || micro.is_multiple_of(router.balance_sequences) {
        return Ok(());
    }
    let group = router.balance_sequences;
    Err(Problem::new(
        format!(
            "micro_sequences ({micro}) is not a multiple of the model's router.balance_sequences ({group})"
        ),
        format!(
            "set micro_sequences to {group} or a multiple of it: the balance loss is taken over whole groups"
        ),
    ))
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
