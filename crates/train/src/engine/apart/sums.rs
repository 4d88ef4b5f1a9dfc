//! What adds up over the steps of a round.

use crate::compute::Outcome;
use lingot_model::{Losses, Totals};

/// Sums over steps.
#[derive(Default)]
pub(super) struct Sums {
    losses: Losses,
    gradient_norm: f64,
    loads: Vec<Vec<i32>>,
    pub(super) totals: Totals,
    /// Steps taken.
    pub(super) steps: u64,
    /// Those of them that were applied.
    pub(super) finite: u64,
}

impl Sums {
    /// Adds a step. One that was not applied adds its tokens alone.
    pub(super) fn add(&mut self, outcome: &Outcome, totals: Totals) {
        self.steps += 1;
        self.totals.tokens += totals.tokens;
        self.totals.targets += totals.targets;
        self.totals.mtp_targets += totals.mtp_targets;
        if !outcome.is_finite() {
            return;
        }
        self.finite += 1;
        self.add_outcome(outcome.losses, outcome.gradient_norm, &outcome.loads);
    }

    /// Adds the steps of another worker.
    pub(super) fn merge(&mut self, other: Sums) {
        self.steps += other.steps;
        self.finite += other.finite;
        self.totals.tokens += other.totals.tokens;
        self.totals.targets += other.totals.targets;
        self.totals.mtp_targets += other.totals.mtp_targets;
        self.add_outcome(other.losses, other.gradient_norm, &other.loads);
    }

    fn add_outcome(&mut self, losses: Losses, gradient_norm: f64, all_loads: &[Vec<i32>]) {
        let sum = &mut self.losses;
        sum.main += losses.main;
        sum.mtp += losses.mtp;
        sum.balance += losses.balance;
        sum.z += losses.z;
        sum.total += losses.total;
        self.gradient_norm += gradient_norm;
        self.loads.resize(self.loads.len().max(all_loads.len()), Vec::new());
        for (sum, loads) in self.loads.iter_mut().zip(all_loads) {
            sum.resize(loads.len(), 0);
            sum.iter_mut().zip(loads).for_each(|(sum, load)| *sum += load);
        }
    }

    /// Returns the means over the steps that were applied, and the loads of all.
    pub(super) fn outcome(&self) -> Outcome {
        let count = self.finite.max(1) as f64;
        let sum = self.losses;
        let losses = Losses {
            main: sum.main / count,
            mtp: sum.mtp / count,
            balance: sum.balance / count,
            z: sum.z / count,
            total: sum.total / count,
        };
        let (gradient_norm, loads) = (self.gradient_norm / count, self.loads.clone());
        Outcome { losses, gradient_norm, loads, moments: Vec::new() }
    }
}
