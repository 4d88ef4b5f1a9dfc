//! What a search found, as it is printed, written as JSON and drawn: the object of `lingot plan --json`.

use crate::money::Money;
use lingot_spec::run::{Recompute, Strategy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The answer to a request. Every key is always there; `docs/json.md` is the reference.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Answer {
    pub model: String,
    pub parameters: u64,
    pub tokens: f64,
    /// A sentence: what was asked for.
    pub objective: String,
    pub feasible: bool,
    /// Where nothing fits: the constraint that binds and the smallest change that lifts it.
    pub binding: Option<Binding>,
    pub best: Option<Plan>,
    /// The best fleet of each chip alone, where there is one.
    pub single_chip: BTreeMap<String, Plan>,
    /// No other plan is both cheaper and faster; from the cheapest to the fastest.
    pub pareto: Vec<Plan>,
    /// The best plan of each other kind.
    pub next_best: Vec<Plan>,
    pub rejected: Vec<Rejected>,
    pub independence: Vec<Independence>,
    /// What the best plan costs when a price changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitivity: Vec<Sensitivity>,
    /// Sentences: what the numbers rest on.
    pub assumptions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Binding {
    pub constraint: String,
    pub change: String,
}

/// One fleet with one layout.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Plan {
    pub name: String,
    pub fleet: Vec<Chips>,
    /// How the model lies on the fleet, in words.
    pub layout: String,
    /// What of it a run can be told; none in answers of before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    pub cost: Money,
    pub seconds: f64,
    pub tokens_per_s: f64,
    /// A sentence: why it is not the best; empty for the best.
    pub why: String,
    /// Of one step.
    pub time: Vec<Share>,
    /// Of the fullest device of each chip type.
    pub memory: Vec<Memory>,
}

/// The part of a layout that is the same on all devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Policy {
    pub strategy: Strategy,
    pub recompute: Recompute,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Chips {
    pub chip: String,
    pub vendor: String,
    pub count: u64,
}

/// A part of a whole, in seconds or bytes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Share {
    pub part: String,
    pub amount: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Memory {
    pub chip: String,
    pub has_bytes: f64,
    pub parts: Vec<Share>,
}

/// A family of plans that was ruled out, with both numbers in the reason.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Rejected {
    pub family: String,
    pub reason: String,
    pub found: String,
    pub limit: String,
}

/// What it costs to do without a vendor.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Independence {
    pub vendor: String,
    /// The best plan of all.
    pub with: Option<f64>,
    /// The best plan without any chip of this vendor; null where there is none.
    pub without: Option<f64>,
}

/// What one change does to the answer; a plan is searched anew.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sensitivity {
    pub change: String,
    /// The best plan as it is.
    pub with: f64,
    /// The best plan after the change; null where there is none.
    pub then: Option<f64>,
}

impl Plan {
    /// `512 x d + 256 x a`.
    pub fn fleet_words(&self) -> String {
        let words: Vec<String> =
            self.fleet.iter().map(|part| format!("{} x {}", part.count, part.chip)).collect();
        words.join(" + ")
    }
}
