//! What the planner answers: plans with their parts, the front, and why the others lost.

use crate::money::Money;
use crate::request::Strategy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Absent where no fleet meets the constraints; `infeasible` then says why.
    pub best: Option<Plan>,
    /// Plans of which none is both cheaper and faster than another, the fastest first.
    pub pareto: Vec<Plan>,
    /// The best plan of each other kind of fleet (another set of chips or strategy), the best first.
    pub alternatives: Vec<Plan>,
    /// The best plan with one type of chip alone, by its name.
    pub single_chip: BTreeMap<String, Plan>,
    pub rejected: Vec<Rejection>,
    pub infeasible: Option<Infeasible>,
    /// What the answer stands on, in sentences.
    pub assumptions: Vec<String>,
    /// Upper bound of (best - optimum) / optimum: 0 where the search went to its end.
    pub gap: f64,
}

/// A fleet, its layout, and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub fleet: Vec<Layout>,
    pub strategy: Strategy,
    pub hours: f64,
    pub cost: Money,
    pub tokens_per_s: f64,
    pub step_s: f64,
    pub time: TimeBreakdown,
    /// Share of the time in which nothing is lost to checkpoints and failures.
    pub goodput: f64,
}

/// How one type of chip is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub chip: String,
    pub vendor: String,
    pub devices: u32,
    /// Whole copies of the model.
    pub replicas: u32,
    /// Stages of the pipeline.
    pub pipeline: u32,
    /// Devices over which the experts are spread.
    pub expert_parallel: u32,
    /// Layers of each stage.
    pub layers: Vec<u32>,
    pub recompute: bool,
    /// Sequences of a step that these devices take; they follow speed.
    pub batch_sequences: f64,
    /// Share of the fleet's tokens.
    pub share: f64,
    pub cost: Money,
    pub memory: MemoryBreakdown,
}

/// Where a step's seconds go; the sum is `step_s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeBreakdown {
    /// Products, attention and what moves bytes, imbalance and all-to-all included.
    pub compute_s: f64,
    /// Waiting for the pipeline to fill, and for the last micro-batch of the slowest.
    pub bubble_s: f64,
    pub optimizer_s: f64,
    pub exchange_s: f64,
}

/// Memory of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryBreakdown {
    pub weights_bytes: f64,
    pub gradients_bytes: f64,
    pub optimizer_bytes: f64,
    pub activations_bytes: f64,
    pub available_bytes: f64,
}

/// A kind of fleet that was not chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    /// `chips / strategy`.
    pub family: String,
    pub reason: String,
    pub needed: f64,
    pub available: f64,
    pub unit: String,
}

/// Why no fleet will do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Infeasible {
    /// `memory`, `availability`, `deadline`, `budget` or `max_share`.
    pub constraint: String,
    /// The smallest change that makes a plan possible, in a sentence.
    pub change: String,
    pub needed: f64,
    pub available: f64,
    pub unit: String,
}

impl MemoryBreakdown {
    /// Of all parts.
    pub fn total_bytes(&self) -> f64 {
        self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes
    }
}

impl TimeBreakdown {
    /// One step.
    pub fn total_s(&self) -> f64 {
        self.compute_s + self.bubble_s + self.optimizer_s + self.exchange_s
    }
}
