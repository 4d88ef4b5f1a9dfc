//! Prices of the pieces that stages are made of: one dense layer, one MoE layer, and the two ends of the
//! model.

use crate::floors::over_floor;
use crate::layout::Placer;
use crate::times::{Part, Times};
use lingot_spec::ModelSpec;
use lingot_spec::cost::{self, Widths};
use lingot_spec::run::Recompute;
use lingot_spec::step::{self, Batch, StepMemory, StepOp};

/// One micro-batch in each piece of the model, and the memory it takes.
pub(crate) struct Pieces {
    /// Embedding, head and multi-token prediction.
    pub ends: Times,
    pub dense_layer: Times,
    pub moe_layer: Times,
    pub inputs_bytes: f64,
    pub dense_kept_bytes: f64,
    pub moe_kept_bytes: f64,
    pub scratch_bytes: f64,
    /// Of the whole model.
    pub update_s: f64,
    /// The whole model on one card, exactly.
    pub whole: StepMemory,
}

impl Placer<'_> {
    /// The pieces where `expert_cards` cards share the experts of a layer.
    pub(crate) fn pieces(&self, expert_cards: u32, recompute: Recompute) -> Pieces {
        let policy = [recompute];
        let batch = Batch {
            micro: self.request.micro_sequences as usize,
            micros: 1,
            sequence: self.request.sequence as usize,
            recompute: &policy,
            warming: false,
            widths: Widths::F32,
        };
        let cut = |layers, dense_layers| {
            step::step(&ModelSpec { layers, dense_layers, ..self.model.clone() }, &batch)
        };
        let (none, dense, moe) = (cut(0, 0), cut(1, 1), cut(1, 0));
        let ends = self.priced(&none.ops, expert_cards);
        let kept = |step: &step::Step| (step.memory.kept_bytes - none.memory.kept_bytes) as f64;
        let whole = step::step(self.model, &batch);
        let update = whole.ops.iter().filter(|op| Part::of(op).is_none());
        Pieces {
            dense_layer: self.priced(&dense.ops, expert_cards).above(&ends),
            moe_layer: self.priced(&moe.ops, expert_cards).above(&ends),
            inputs_bytes: none.memory.kept_bytes as f64,
            dense_kept_bytes: kept(&dense),
            moe_kept_bytes: kept(&moe),
            scratch_bytes: whole.memory.scratch_bytes as f64,
            update_s: update.map(|op| self.seconds(op)).sum(),
            ends,
            whole: whole.memory,
        }
    }

    /// Seconds of one micro-batch's ops; the update is left out.
    fn priced(&self, ops: &[StepOp], expert_cards: u32) -> Times {
        let mut times = Times::default();
        for op in ops {
            let Some(part) = Part::of(op) else { continue };
            let load = if part == Part::Experts { self.skew(expert_cards) } else { 1.0 };
            times.add(part, load * self.seconds(&spread_experts(op, expert_cards)));
        }
        times
    }

    /// Load over the mean of the busiest of `cards` cards that share the experts. A card with several experts
    /// is nearer to the mean than a single expert, as a sum of independent loads is; one with all of them has
    /// the mean.
    pub(crate) fn skew(&self, cards: u32) -> f64 {
        let experts = f64::from(self.model.experts.max(1)) / f64::from(cards);
        if cards == 1 { 1.0 } else { 1.0 + (self.request.assume.skew - 1.0) / experts.max(1.0).sqrt() }
    }

    /// Seconds of one op: as measured where there is a profile, else the slower of the chip's arithmetic and
    /// memory, as far from it as on the chip that was measured or as the request says.
    fn seconds(&self, op: &StepOp) -> f64 {
        let assume = &self.request.assume;
        self.profile.and_then(|profile| profile.seconds(op)).unwrap_or_else(|| {
            let times = over_floor(op.name, self.pace);
            let over = |efficiency: Option<f64>| efficiency.map_or(times, |efficiency| 1.0 / efficiency);
            let compute_s = op.cost.flops / self.chip.peak() * over(assume.compute_efficiency);
            compute_s.max(op.cost.bytes / self.chip.bandwidth_bytes_s * over(assume.bandwidth_efficiency))
        })
    }
}

/// The op where each of `cards` cards holds its part of the experts: as many rows, fewer matrices.
fn spread_experts(op: &StepOp, cards: u32) -> StepOp {
    let [rows, experts, n, k, _] = op.sizes;
    let experts = experts.div_ceil(cards as usize);
    let cost = match op.name {
        _ if cards == 1 => return *op,
        "grouped_matmul" => cost::grouped_matmul(rows, [experts, n, k], Widths::F32),
        "grouped_matmul_weights" => cost::grouped_matmul_weights(rows, [experts, n, k], Widths::F32, true),
        _ => return *op,
    };
    StepOp { sizes: [rows, experts, n, k, 0], cost, ..*op }
}
