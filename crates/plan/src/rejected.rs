//! Chips that cannot do alone what is asked, each with its reason as numbers; the text is made at the end.

use crate::answer::Rejected;
use crate::explain::{amount, hours};
use crate::fleet::Question;
use crate::layout::USABLE_MEMORY;
use crate::planner::{EXPLANATORY, Planner};
use crate::search::Least;

/// A chip that was ruled out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rejection {
    /// Its place among the request's chips.
    pub chip: usize,
    pub reason: Reason,
}

/// Why a chip alone does not do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reason {
    /// No layout fits into the usable part of a card's memory.
    TooLittleMemory { needs_bytes: f64, usable_bytes: f64 },
    /// One replica needs more cards than are available.
    TooFewCards { needs: u32, has: u32 },
    /// The request excludes the vendor of the chip, of which `has` cards are available.
    VendorExcluded { has: u32 },
    /// The fastest fleet misses the deadline.
    TooSlow { fastest_s: f64, deadline_s: f64 },
    /// The cheapest fleet exceeds the budget.
    TooExpensive { cheapest: f64, budget: f64 },
}

/// All rejections: chips without a replica, then those whose fleets break the deadline or the budget.
pub(crate) fn rejections(planner: &Planner<'_>) -> Vec<Rejection> {
    let late = (0..planner.chips.len())
        .filter_map(|chip| Some(Rejection { chip, reason: beyond_limits(planner, chip)? }));
    planner.unusable.iter().copied().chain(late).collect()
}

/// Which limit the fleets of a chip alone break, caps on vendors left out.
fn beyond_limits(planner: &Planner<'_>, chip: usize) -> Option<Reason> {
    let limits = &planner.question;
    let question =
        Question { deadline_s: None, budget: None, caps: Vec::new(), ..planner.only(|at| at == chip) };
    let find = |least| planner.search(&question, least, EXPLANATORY).best;
    if let Some((deadline_s, fastest)) = limits.deadline_s.zip(find(Least::Seconds))
        && fastest.seconds > deadline_s
    {
        return Some(Reason::TooSlow { fastest_s: fastest.seconds, deadline_s });
    }
    let (budget, cheapest) = limits.budget.zip(find(Least::Money))?;
    (cheapest.money > budget).then_some(Reason::TooExpensive { cheapest: cheapest.money, budget })
}

impl Rejection {
    /// The rejection in words.
    pub(crate) fn words(&self, planner: &Planner<'_>) -> Rejected {
        let chip = planner.chips[self.chip];
        let (reason, found, limit) = match self.reason {
            Reason::TooLittleMemory { needs_bytes, usable_bytes } => (
                format!("no layout fits into {:.0} % of a card's memory", 100.0 * USABLE_MEMORY),
                format!("{:.1} GB", needs_bytes / 1e9),
                format!("{:.1} GB", usable_bytes / 1e9),
            ),
            Reason::TooFewCards { needs, has: 0 } => {
                ("no card is available".into(), format!("{} needed", cards(needs)), "0 available".into())
            }
            Reason::TooFewCards { needs, has } => {
                ("one replica needs more cards than are available".into(), cards(needs), cards(has))
            }
            Reason::VendorExcluded { has } => (
                format!("its vendor {} is excluded", chip.vendor),
                format!("{} available", cards(has)),
                "0 allowed".into(),
            ),
            Reason::TooSlow { fastest_s, deadline_s } => {
                ("even its fastest fleet is too slow".into(), hours(fastest_s), hours(deadline_s))
            }
            Reason::TooExpensive { cheapest, budget } => (
                "even its cheapest fleet is too expensive".into(),
                amount(planner, cheapest),
                amount(planner, budget),
            ),
        };
        Rejected { family: format!("{} alone", chip.name), reason, found, limit }
    }
}

/// `1 card`, `2 cards`.
pub(crate) fn cards(count: u32) -> String {
    if count == 1 { "1 card".into() } else { format!("{count} cards") }
}
