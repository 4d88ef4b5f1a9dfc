//! Why no fleet does what is asked: the fewest constraints whose lifting makes one possible, and how far to
//! lift them.

use crate::answer::{Binding, Rejected};
use crate::fleet::{Fleet, Question};
use crate::layout::USABLE_MEMORY;
use crate::planner::{EXPLANATORY, Planner};
use crate::rejected::{Reason, Rejection, cards};
use crate::search::Least;

/// A vendor's least share is found to within this much.
const SHARE_STEP: f64 = 5e-4;

/// A constraint of a request that can be lifted.
#[derive(Clone, Copy, PartialEq)]
enum Limit<'a> {
    Deadline,
    Budget,
    /// An index into the question's caps.
    Cap(usize),
    Without(&'a str),
}

/// Returns the fewest constraints that bind together and what lifts them; of sets of as many, the one whose
/// constraints come first in a request.
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
        let least = match set.as_slice() {
            [Limit::Deadline] => Least::Seconds,
            [Limit::Budget] => Least::Money,
            _ => planner.least(),
        };
        if let Some(fleet) = planner.search(&question, least, EXPLANATORY).best {
            let fleet = with_least_shares(planner, &set, question, fleet);
            let needs: Vec<Binding> = set.iter().map(|limit| need(planner, *limit, &fleet, &set)).collect();
            let join =
                |of: fn(&Binding) -> &str, between| needs.iter().map(of).collect::<Vec<&str>>().join(between);
            return Binding {
                constraint: join(|need| &need.constraint, "; and "),
                change: join(|need| &need.change, ", and "),
            };
        }
    }
    no_replica(planner)
}

/// The fleet that needs the least of each capped vendor of the set, or nearly the least: the best fleet
/// without a cap often uses nothing but the vendor that was capped. The set's other limits are held at what
/// `fleet` takes.
fn with_least_shares(
    planner: &Planner<'_>,
    set: &[Limit<'_>],
    mut question: Question,
    mut fleet: Fleet,
) -> Fleet {
    for limit in set {
        match limit {
            Limit::Deadline => question.deadline_s = Some(fleet.seconds),
            Limit::Budget => question.budget = Some(fleet.money),
            Limit::Cap(_) | Limit::Without(_) => {}
        }
    }
    for limit in set {
        let Limit::Cap(at) = *limit else { continue };
        let mut low = planner.question.caps[at].share;
        let mut high = question.share(&fleet.counts, &question.caps[at]);
        while high - low > SHARE_STEP {
            let middle = f64::midpoint(low, high);
            question.caps[at].share = middle;
            match planner.search(&question, planner.least(), EXPLANATORY).best {
                Some(found) => {
                    high = question.share(&found.counts, &question.caps[at]);
                    fleet = found;
                }
                None => low = middle,
            }
        }
        question.caps[at].share = high;
    }
    fleet
}

/// The request's limits, at most six of them: the sets to try double with each.
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
            // A share of 1 limits nothing, and the other caps keep their indices.
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

/// What a limit of the set allows and what the fleet needs; and the change, rounded so that following it is
/// enough.
fn need(planner: &Planner<'_>, limit: Limit<'_>, fleet: &Fleet, set: &[Limit<'_>]) -> Binding {
    let asked = &planner.question;
    let currency = &planner.request.currency;
    // Alone, a deadline or a budget is compared with that of the fastest or the cheapest fleet.
    let which = |extreme: &'static str| if set.len() == 1 { extreme } else { "best" };
    match limit {
        Limit::Deadline => {
            let needs = rounded_up(fleet.seconds / 3600.0);
            let limit = planner.request.constraints.deadline_hours.unwrap_or_default();
            let which = which("fastest");
            Binding {
                constraint: format!("the deadline is {limit} h, the {which} fleet takes {needs} h"),
                change: format!("allow {needs} h"),
            }
        }
        Limit::Budget => {
            let needs = rounded_up(fleet.money);
            let limit = asked.budget.unwrap_or_default();
            let which = which("cheapest");
            Binding {
                constraint: format!(
                    "the budget is {limit} {currency}, the {which} fleet costs {needs} {currency}"
                ),
                change: format!("raise the budget to {needs} {currency}"),
            }
        }
        Limit::Cap(at) => {
            let cap = &asked.caps[at];
            let needs = rounded_up(asked.share(&fleet.counts, cap)).min(1.0);
            let vendor = &cap.vendor;
            Binding {
                constraint: format!(
                    "{vendor} may do a share of {} of the work, and no fleet needs less of it than {needs}",
                    cap.share
                ),
                change: format!("allow {vendor} a share of {needs}, or name more chips of others"),
            }
        }
        Limit::Without(vendor) => {
            let cards: f64 = (asked.ways.iter().zip(&fleet.counts))
                .flat_map(|(way, count)| way.uses().map(|(chip, cards)| (chip, cards * *count)))
                .filter(|(chip, _)| planner.is_of(*chip, vendor))
                .map(|(_, cards)| f64::from(cards))
                .sum();
            Binding {
                constraint: format!(
                    "{vendor} is excluded, and the best fleet with it has {cards} of its cards"
                ),
                change: format!("allow {vendor}, or name more chips of others"),
            }
        }
    }
}

/// Four digits, the last rounded up, so that a limit of this size allows the value.
fn rounded_up(value: f64) -> f64 {
    let digits = 3 - value.abs().log10().floor().clamp(-300.0, 300.0) as i32;
    let unit = 10_f64.powi(-digits);
    let up = (value / unit).ceil() * unit;
    // Through its digits, so that people do not read 0.30000000000000004.
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
