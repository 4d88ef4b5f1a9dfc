//! What a search found, as it is printed, written as JSON and drawn: the object of `lingot plan --json`.

use crate::money::Money;
use lingot_spec::run::{Recompute, Strategy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The answer to a request. All keys are always present; `docs/json.md` is the reference.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Answer {
    /// The preset's name, or words for a model of its own.
    pub model: String,
    /// Parameters of the model, multi-token prediction included.
    pub parameters: u64,
    /// Tokens to train on.
    pub tokens: f64,
    /// What was asked for, in words.
    pub objective: String,
    /// Whether any fleet does what is asked.
    pub feasible: bool,
    /// Where no fleet does: the constraint that binds and a change that lifts it.
    pub binding: Option<Binding>,
    /// The best plan, where there is one.
    pub best: Option<Plan>,
    /// The best fleet of each chip alone, where there is one, by the chip's name.
    pub single_chip: BTreeMap<String, Plan>,
    /// Plans that no other plan beats in both money and time, from the cheapest to the fastest.
    pub pareto: Vec<Plan>,
    /// The best plan of each other strategy.
    pub next_best: Vec<Plan>,
    /// What was ruled out.
    pub rejected: Vec<Rejected>,
    /// What it costs to do without each vendor.
    pub independence: Vec<Independence>,
    /// What the best plan costs when a price changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitivity: Vec<Sensitivity>,
    /// Why the best plan takes as long as it does; absent in answers of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// What the numbers rest on, in sentences.
    pub assumptions: Vec<String>,
}

/// Why no fleet does what is asked.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Binding {
    /// The constraints that bind together, with what a fleet needs.
    pub constraint: String,
    /// A change after which a fleet does it.
    pub change: String,
}

/// One fleet with one layout.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Plan {
    /// The fleet in words.
    pub name: String,
    /// Cards by chip type.
    pub fleet: Vec<Chips>,
    /// How the model lies on the fleet, in words.
    pub layout: String,
    /// The part of the layout that a run can be told; absent in answers of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Money for the whole run.
    pub cost: Money,
    /// Seconds for the whole run.
    pub seconds: f64,
    /// Tokens per second of the whole fleet.
    pub tokens_per_s: f64,
    /// Why this plan is not the best; empty for the best.
    pub why: String,
    /// Seconds of one step by part.
    pub time: Vec<Share>,
    /// Bytes of the fullest device of each chip type, by part.
    pub memory: Vec<Memory>,
    /// From the best to the worst that the forecast may turn out; absent where nothing is in doubt, and in
    /// plans other than the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
}

/// The range of a forecast.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Range {
    /// Least and most seconds.
    pub seconds: [f64; 2],
    /// Least and most money.
    pub cost: [f64; 2],
}

/// What stands behind a forecast.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Why {
    /// The one change that would bring most; none where the time is as measured.
    pub change: Option<Change>,
    /// What is not modelled, a sentence each, and whether it makes the forecast too fast or too slow.
    pub unmodelled: Vec<String>,
}

/// A change to the program, and what it would bring.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Change {
    /// The change in words.
    pub change: String,
    /// The share of a step's time that it would save.
    pub saves: f64,
}

/// The part of a layout that is the same on all devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Policy {
    /// How replicas agree.
    pub strategy: Strategy,
    /// What the backward pass computes again.
    pub recompute: Recompute,
}

/// Cards of one chip type.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Chips {
    /// The chip's name in the catalogue.
    pub chip: String,
    /// Its vendor.
    pub vendor: String,
    /// Cards.
    pub count: u64,
}

/// A part of a whole, in seconds or bytes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Share {
    /// The part's name.
    pub part: String,
    /// Seconds or bytes.
    pub amount: f64,
}

/// What fills a card.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Memory {
    /// The chip's name in the catalogue.
    pub chip: String,
    /// Bytes of the card's memory.
    pub has_bytes: f64,
    /// Bytes by part.
    pub parts: Vec<Share>,
}

/// Plans that were ruled out, with both numbers of the reason.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Rejected {
    /// Which plans.
    pub family: String,
    /// Why they were ruled out.
    pub reason: String,
    /// What they need.
    pub found: String,
    /// What there is.
    pub limit: String,
}

/// What it costs to do without a vendor.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Independence {
    /// The vendor.
    pub vendor: String,
    /// Money of the best plan.
    pub with: Option<f64>,
    /// Money of the best plan without any chip of this vendor; none where there is no such plan.
    pub without: Option<f64>,
}

/// What one change does to the answer; the fleet is searched again.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sensitivity {
    /// The change in words.
    pub change: String,
    /// Money of the best plan now.
    pub with: f64,
    /// Money of the best plan after the change; none where there is no plan.
    pub then: Option<f64>,
}

impl Plan {
    /// The fleet as `512 x d + 256 x a`.
    pub fn fleet_words(&self) -> String {
        let words: Vec<String> =
            self.fleet.iter().map(|part| format!("{} x {}", part.count, part.chip)).collect();
        words.join(" + ")
    }
}
