//! Why no fleet does what is asked: the fewest constraints whose lifting makes one possible, and how far to lift them.

use crate::answer::{Binding, Rejected};
use crate::fleet::{Fleet, Question};
use crate::layout::USABLE_MEMORY;
use crate::planner::{EXPLANATORY, Planner};
use crate::rejected::{Reason, Rejection, cards};
use crate::search::Least;

/// A constraint of a request that can be lifted.
#[derive(Clone, Copy, PartialEq)]
enum Limit<'a> {
    Deadline,
    Budget,
    /// By its place among the question's.
    Cap(usize),
    Without(&'a str),
}

/// The fewest constraints that bind together; of as many, those that come first in a request.
pub(crate) fn binding(planner: &Planner<'_>) -> Binding {
    let limits = limits(planner);
    let mut sets: Vec<Vec<Limit<'_>>> = (1_usize..1 << limits.len())
        .map(|bits| {
            limits.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, limit)| *limit).collect()
        })
        .collect();
    sets.sort_by_key(Vec::len);
    for set in sets {
        let question = lifted(planner, &set);
        let only = |limit| set == [limit];
        let least = match planner.least() {
            _ if only(Limit::Deadline) => Least::Seconds,
            _ if only(Limit::Budget) => Least::Money,
            least => least,
        };
        if let Some(fleet) = planner.search(&question, least, EXPLANATORY).best {
            let (constraints, changes): (Vec<String>, Vec<String>) =
                set.iter().map(|limit| words(planner, *limit, &fleet)).unzip();
            return Binding { constraint: constraints.join("; and "), change: changes.join(", and ") };
        }
    }
    no_replica(planner)
}

/// At most six, so that there are few sets of them: a request has a deadline, a budget, and few vendors.
fn limits<'a>(planner: &'a Planner<'_>) -> Vec<Limit<'a>> {
    let asked = &planner.question;
    let deadline = asked.deadline_s.map(|_| Limit::Deadline);
    let budget = asked.budget.map(|_| Limit::Budget);
    let without = planner.request.constraints.without.iter().map(|vendor| Limit::Without(vendor));
    let caps = (0..asked.caps.len()).map(Limit::Cap);
    deadline.into_iter().chain(budget).chain(caps).chain(without).take(6).collect()
}

fn lifted(planner: &Planner<'_>, set: &[Limit<'_>]) -> Question {
    let mut question = planner.question.clone();
    for limit in set {
        match limit {
            Limit::Deadline => question.deadline_s = None,
            Limit::Budget => question.budget = None,
            // A share of all caps nothing, and the others keep their places.
            Limit::Cap(at) => question.caps[*at].share = 1.0,
            Limit::Without(vendor) => {
                for at in 0..planner.chips.len() {
                    if planner.is_of(at, vendor) {
                        question.cards[at] = planner.available(at);
                    }
                }
            }
        }
    }
    question
}

/// What the constraint says and what a fleet needs; then the change, rounded so that following it is enough.
fn words(planner: &Planner<'_>, limit: Limit<'_>, fleet: &Fleet) -> (String, String) {
    let asked = &planner.question;
    let currency = &planner.request.currency;
    match limit {
        Limit::Deadline => {
            let needed = rounded_up(fleet.seconds / 3600.0);
            let limit = planner.request.constraints.deadline_hours.unwrap_or_default();
            let constraint = format!("the deadline is {limit} h, the fastest fleet takes {needed} h");
            (constraint, format!("allow {needed} h"))
        }
        Limit::Budget => {
            let needed = rounded_up(fleet.money);
            let limit = asked.budget.unwrap_or_default();
            let constraint =
                format!("the budget is {limit} {currency}, the cheapest fleet costs {needed} {currency}");
            (constraint, format!("raise the budget to {needed} {currency}"))
        }
        Limit::Cap(at) => {
            let cap = &asked.caps[at];
            let needed = rounded_up(asked.share(&fleet.counts, cap)).min(1.0);
            let vendor = &cap.vendor;
            let constraint = format!(
                "{vendor} may do a share of {} of the work, the best fleet without that cap gives it {needed}",
                cap.share
            );
            (constraint, format!("allow {vendor} a share of {needed}, or name more chips of others"))
        }
        Limit::Without(vendor) => {
            let cards: f64 = (asked.ways.iter().zip(&fleet.counts))
                .flat_map(|(way, count)| way.uses().map(|(chip, cards)| (chip, cards * *count)))
                .filter(|(chip, _)| planner.is_of(*chip, vendor))
                .map(|(_, cards)| f64::from(cards))
                .sum();
            let constraint =
                format!("{vendor} is excluded, and the best fleet with it has {cards} of its cards");
            (constraint, format!("allow {vendor}, or name more chips of others"))
        }
    }
}

/// Four digits, the last rounded up: a limit of this size is kept by what the value measures.
fn rounded_up(value: f64) -> f64 {
    let digits = 3 - value.abs().log10().floor().clamp(-300.0, 300.0) as i32;
    let unit = 10_f64.powi(-digits);
    let up = (value / unit).ceil() * unit;
    // Through its digits, so that 0.30000000000000004 is not what people read.
    format!("{up:.*}", digits.max(0) as usize).parse().unwrap_or(up)
}

/// Without limits there is no fleet either: no chip has the memory or the cards for one replica.
fn no_replica(planner: &Planner<'_>) -> Binding {
    let missing = |rejection: &Rejection| match rejection.reason {
        Reason::TooFewCards { needs, has } => u64::from(needs - has),
        _ => u64::MAX,
    };
    let Some(nearest) = planner.unusable.iter().min_by_key(|rejection| missing(rejection)) else {
        return Binding { constraint: "0 cards may be used".into(), change: "make cards available".into() };
    };
    let chip = &planner.chips[nearest.chip].name;
    let change = match nearest.reason {
        Reason::TooFewCards { needs, .. } => format!("make {} of {chip} available", cards(needs)),
        Reason::TooLittleMemory { needs_bytes, .. } => {
            let gigabytes = (needs_bytes / USABLE_MEMORY / 1e9).ceil();
            format!("name a chip whose cards have {gigabytes} GB of memory")
        }
        _ => "make more or larger cards available".into(),
    };
    let Rejected { family, reason, found, limit } = nearest.words(planner);
    Binding { constraint: format!("{family}: {reason} ({found} against {limit})"), change }
}

#[cfg(test)]
mod tests {
    use super::rounded_up;

    #[test]
    fn a_limit_is_rounded_up_to_four_digits() {
        for (value, wanted) in
            [(1.00001, 1.001), (12345.6, 12350.0), (0.3, 0.3), (1e-7, 1e-7), (0.66667, 0.6667), (7.0, 7.0)]
        {
            let up = rounded_up(value);
            assert!(up >= value * (1.0 - 1e-12) && (up - wanted).abs() <= 1e-12 * wanted, "{value}: {up}");
        }
    }
}
