//! How a replica of the model may lie on the cards of one chip type, how fast each such layout is, and what it fills.
//!
//! Layers go to the stages of a pipeline; the experts of a layer are spread over the cards of a stage, each of which
//! computes its own micro-batches and holds all else of the stage. Costs are those of `spec::step`'s ops.

use crate::catalogue::Chip;
use crate::pair::Other;
use crate::profile::Profile;
use crate::request::{Assumptions, Request};
use lingot_spec::run::Recompute;
use lingot_spec::step::{self, Batch, StepMemory, StepOp};
use lingot_spec::{ModelSpec, cost};
use std::collections::BTreeMap;

/// A replica's place on its cards.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Stages of the pipeline.
    pub stages: u32,
    /// Cards over which the experts of a layer are spread.
    pub expert_cards: u32,
    pub recompute: Recompute,
    pub cards: u32,
    pub tokens_s: f64,
    /// Of each step: filling the pipeline, agreeing within the replica, the update.
    pub fixed: Vec<(&'static str, f64)>,
    /// Of one micro-batch in the slowest stage, by part.
    pub micro: Vec<(&'static str, f64)>,
    pub exchange_s: f64,
    /// Bytes of the fullest card, by part.
    pub memory: Vec<(&'static str, f64)>,
    /// The other chip's side, where the replica lies on two; `cards` and `memory` are then of the first.
    pub second: Option<Other>,
}

/// The share of a card's memory that a model may fill; the rest is the runtime's.
pub const USABLE_MEMORY: f64 = 0.95;

/// Bytes of a float.
pub(crate) const WIDTH: f64 = 4.0;

/// Fleets of so many cards, for which the best layouts are kept.
const SCALES: [u32; 15] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/// What all layouts on one chip share.
pub(crate) struct Drawer<'a> {
    pub request: &'a Request,
    pub model: &'a ModelSpec,
    pub chip: &'a Chip,
    pub profile: Option<&'a Profile>,
}

/// What a card holds: bytes by part, numbers trained there, and those of them that are no expert's.
pub(crate) struct Held {
    pub bytes: Vec<(&'static str, f64)>,
    pub numbers: f64,
    pub shared: f64,
}

impl Held {
    fn tuple(self) -> (Vec<(&'static str, f64)>, f64, f64) {
        (self.bytes, self.numbers, self.shared)
    }
}

/// Prices of a stage's pieces, of one micro-batch, and their memory.
pub(crate) struct Pieces {
    ends: BTreeMap<&'static str, f64>,
    dense: BTreeMap<&'static str, f64>,
    moe: BTreeMap<&'static str, f64>,
    inputs_bytes: f64,
    dense_kept_bytes: f64,
    moe_kept_bytes: f64,
    scratch_bytes: f64,
    pub update_s: f64,
    /// The whole model on one card, exactly.
    whole: StepMemory,
}

impl Layout {
    pub fn fixed_s(&self) -> f64 {
        self.fixed.iter().map(|(_, seconds)| seconds).sum()
    }

    pub fn micro_s(&self) -> f64 {
        self.micro.iter().map(|(_, seconds)| seconds).sum()
    }

    pub(crate) fn memory_bytes(&self) -> f64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Drawer<'_> {
    /// All layouts, those too large for the card included.
    pub(crate) fn all(&self) -> Vec<Layout> {
        let model = self.model;
        let most = model.experts.max(1).min(self.request.batch_sequences / self.request.micro_sequences);
        let spreads = (0..10).map(|power| 1u32 << power);
        let spreads: Vec<u32> = spreads
            .filter(|&spread| spread == 1 || spread <= most && model.experts.is_multiple_of(spread))
            .collect();
        let mut all = Vec::new();
        for recompute in [Recompute::Nothing, Recompute::Experts, Recompute::Block] {
            for &spread in &spreads {
                let pieces = self.pieces(spread, recompute);
                all.extend((1..=model.layers).map(|stages| self.layout(&pieces, stages, spread, recompute)));
            }
        }
        all
    }

    pub(crate) fn fits(&self, layout: &Layout) -> bool {
        layout.memory_bytes() <= self.chip.memory_bytes * USABLE_MEMORY
    }

    /// Those worth having: for each scale the one that takes the least of its cards' time; prices do not matter here.
    pub(crate) fn best(&self, all: &[Layout]) -> Vec<Layout> {
        let mut kept: Vec<Layout> = Vec::new();
        for scale in SCALES {
            let speed = |layout: &Layout| self.card_speed(layout, layout.cards, scale);
            let fitting = all.iter().filter(|layout| layout.cards <= scale && self.fits(layout));
            if let Some(best) = fitting.max_by(|a, b| speed(a).total_cmp(&speed(b)))
                && !kept.contains(best)
            {
                kept.push(best.clone());
            }
        }
        if let Some(least) = fewest_cards(all.iter().filter(|layout| self.fits(layout)))
            && !kept.contains(least)
        {
            kept.push(least.clone());
        }
        kept
    }

    /// Tokens per second of each card of a replica in a fleet of so many cards that share a step.
    pub(crate) fn card_speed(&self, layout: &Layout, cards: u32, fleet: u32) -> f64 {
        let request = self.request;
        let (cards, sequence) = (f64::from(cards), f64::from(request.sequence));
        let share = f64::from(request.batch_sequences) * cards / f64::from(fleet);
        let smallest = f64::from(request.micro_sequences * layout.expert_cards);
        let tokens = sequence * share.max(smallest);
        tokens / (layout.fixed_s() + tokens / layout.tokens_s + layout.exchange_s) / cards
    }

    pub(crate) fn pieces(&self, spread: u32, recompute: Recompute) -> Pieces {
        let policy = [recompute];
        let batch = Batch {
            micro: self.request.micro_sequences as usize,
            micros: 1,
            sequence: self.request.sequence as usize,
            recompute: &policy,
            warming: false,
        };
        let cut = |layers, dense_layers| {
            step::step(&ModelSpec { layers, dense_layers, ..self.model.clone() }, &batch)
        };
        let (none, dense, moe) = (cut(0, 0), cut(1, 1), cut(1, 0));
        let priced = |step: &step::Step| self.priced(&step.ops, spread);
        let ends = priced(&none);
        let minus = |parts: BTreeMap<&'static str, f64>| -> BTreeMap<&'static str, f64> {
            parts.into_iter().map(|(part, s)| (part, (s - ends.get(part).unwrap_or(&0.0)).max(0.0))).collect()
        };
        let kept = |step: &step::Step| (step.memory.kept_bytes - none.memory.kept_bytes) as f64;
        let whole = step::step(self.model, &batch);
        let update = whole.ops.iter().filter(|op| is_update(op.name));
        Pieces {
            dense: minus(priced(&dense)),
            moe: minus(priced(&moe)),
            inputs_bytes: none.memory.kept_bytes as f64,
            dense_kept_bytes: kept(&dense),
            moe_kept_bytes: kept(&moe),
            scratch_bytes: whole.memory.scratch_bytes as f64,
            update_s: update.map(|op| self.seconds(op)).sum(),
            ends,
            whole: whole.memory,
        }
    }

    /// Seconds of one micro-batch's ops, by part; the update is left out.
    fn priced(&self, ops: &[StepOp], spread: u32) -> BTreeMap<&'static str, f64> {
        let mut parts = BTreeMap::new();
        for op in ops.iter().filter(|op| !is_update(op.name)) {
            let (part, times) = match op.name {
                name if name.starts_with("grouped") => ("experts", self.skew(spread)),
                name if name.starts_with("attention") => ("attention", 1.0),
                name if name.starts_with("cross_entropy") => ("head", 1.0),
                "matmul" => ("other products", 1.0),
                _ => ("moving", 1.0),
            };
            *parts.entry(part).or_insert(0.0) += times * self.seconds(&spread_experts(op, spread));
        }
        parts
    }

    /// Load over the mean of the busiest of so many cards that share the experts. A card with several experts is nearer to
    /// the mean than a single expert, as a sum of independent loads is; one with all of them has the mean.
    fn skew(&self, cards: u32) -> f64 {
        let experts = f64::from(self.model.experts.max(1)) / f64::from(cards);
        if cards == 1 { 1.0 } else { 1.0 + (self.request.assume.skew - 1.0) / experts.max(1.0).sqrt() }
    }

    /// As measured, else the slower of the chip's arithmetic and its memory.
    fn seconds(&self, op: &StepOp) -> f64 {
        let assume: &Assumptions = &self.request.assume;
        self.profile.and_then(|profile| profile.seconds(op)).unwrap_or_else(|| {
            let compute_s = op.cost.flops / (self.chip.peak() * assume.compute_efficiency);
            compute_s.max(op.cost.bytes / (self.chip.bandwidth_bytes_s * assume.bandwidth_efficiency))
        })
    }

    fn layout(&self, pieces: &Pieces, stages: u32, spread: u32, recompute: Recompute) -> Layout {
        let model = self.model;
        let (first, micro) = self.balanced(pieces, stages, spread, recompute);
        let last = model.layers - (stages - 1) * first;
        let cards = stages * spread;
        let micro_s: f64 = micro.iter().map(|(_, seconds)| seconds).sum();
        let tokens = f64::from(self.request.micro_sequences) * f64::from(self.request.sequence);
        let (memory, numbers, shared) = self.memory(pieces, stages, spread, [first, last]);
        let all = (model.parameters() + model.mtp_parameters()) as f64;
        let within = self.link(spread);
        let lanes = f64::from(spread);
        let fixed = vec![
            ("pipeline filling", f64::from(stages - 1) * micro_s),
            ("agreeing within a replica", 2.0 * WIDTH * shared * (lanes - 1.0) / lanes / within),
            ("update", pieces.update_s * numbers / all),
        ];
        Layout {
            stages,
            expert_cards: spread,
            recompute,
            cards,
            tokens_s: tokens * lanes / micro_s,
            fixed,
            micro,
            exchange_s: 2.0 * WIDTH * numbers
                / (self.chip.network_bytes_s * self.request.assume.bandwidth_efficiency),
            memory,
            second: None,
        }
    }

    /// Layers of each stage but the last, so that the slowest stage is fastest; and that stage's micro-batch.
    pub(crate) fn balanced(
        &self,
        pieces: &Pieces,
        stages: u32,
        spread: u32,
        recompute: Recompute,
    ) -> (u32, Vec<(&'static str, f64)>) {
        let layers = self.model.layers;
        if stages == 1 {
            return (layers, self.stage(pieces, [0, layers], true, [stages, spread], recompute));
        }
        let even = layers / stages;
        let choices = (even..even + 3).filter(|each| *each > 0 && (stages - 1) * each < layers);
        let sum = |parts: &[(&'static str, f64)]| -> f64 { parts.iter().map(|(_, seconds)| seconds).sum() };
        let slowest = |each: u32| {
            let head = (stages - 1) * each;
            // A stage in the middle is as slow as any that has no dense layers; the first has them all.
            let at = if stages > 2 { each } else { 0 };
            let middle = self.stage(pieces, [at, at + each], false, [stages, spread], recompute);
            let first = self.stage(pieces, [0, each], false, [stages, spread], recompute);
            let last = self.stage(pieces, [head, layers], true, [stages, spread], recompute);
            let all = [first, middle, last];
            all.into_iter().max_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap_or_default()
        };
        let all = choices.map(|each| (each, slowest(each)));
        all.min_by(|(_, a), (_, b)| sum(a).total_cmp(&sum(b))).unwrap_or((1, Vec::new()))
    }

    /// One micro-batch of the layers from the first to before the second, by part.
    pub(crate) fn stage(
        &self,
        pieces: &Pieces,
        [from, to]: [u32; 2],
        is_last: bool,
        [stages, spread]: [u32; 2],
        recompute: Recompute,
    ) -> Vec<(&'static str, f64)> {
        let dense = self.model.dense_layers.clamp(from, to) - from;
        let moe = f64::from(to - from - dense);
        let mut parts: BTreeMap<&'static str, f64> = BTreeMap::new();
        let ends = if is_last { 1.0 } else { 0.0 };
        for (pieces, times) in [(&pieces.ends, ends), (&pieces.dense, f64::from(dense)), (&pieces.moe, moe)] {
            for (part, seconds) in pieces {
                *parts.entry(part).or_insert(0.0) += times * seconds;
            }
        }
        let tokens = f64::from(self.request.micro_sequences) * f64::from(self.request.sequence);
        let row = WIDTH * f64::from(self.model.width);
        let lanes = f64::from(spread);
        // There and back, forward and backward; a forgotten block makes the way twice more.
        let ways = if recompute == Recompute::Block { 6.0 } else { 4.0 };
        let sent = tokens * f64::from(self.model.choices) * row * (lanes - 1.0) / lanes;
        let routed = moe + ends * f64::from(self.model.mtp_layers);
        parts.insert("all-to-all", ways * routed * sent * self.skew(spread) / self.link(spread));
        let between = if stages == 1 { 0.0 } else { 2.0 * tokens * row / self.link(stages * spread) };
        parts.insert("between stages", between);
        parts.into_iter().filter(|(_, seconds)| *seconds > 0.0).collect()
    }

    /// Of a card in a group of that size: inside the machine, or the network.
    pub(crate) fn link(&self, cards: u32) -> f64 {
        let is_inside = cards <= self.chip.cards_per_machine;
        let bytes_s = if is_inside { self.chip.link_bytes_s } else { self.chip.network_bytes_s };
        bytes_s * self.request.assume.bandwidth_efficiency
    }

    /// Of the fullest card: bytes by part, numbers trained there, and those of them that are no expert's.
    fn memory(
        &self,
        pieces: &Pieces,
        stages: u32,
        spread: u32,
        [first, last]: [u32; 2],
    ) -> (Vec<(&'static str, f64)>, f64, f64) {
        let model = self.model;
        if stages == 1 && spread == 1 {
            let numbers = (model.parameters() + model.mtp_parameters()) as f64;
            return (parts(&pieces.whole), numbers, numbers);
        }
        let share = 1.0 / f64::from(spread);
        let stage = |layers: u32, dense: u32, tables: f64, in_flight: f64, has_mtp: bool| {
            self.held(pieces, [layers, dense], tables, in_flight, has_mtp, share)
        };
        let tables = if model.tied { 1.0 } else { 2.0 };
        if stages == 1 {
            return stage(first, model.dense_layers.min(first), tables, 1.0, true).tuple();
        }
        let ends = [
            stage(first, model.dense_layers.min(first), 1.0, f64::from(stages), false),
            stage(last, 0, 1.0, 1.0, true),
        ];
        let [a, b] = ends;
        if total(&a.bytes) >= total(&b.bytes) { a.tuple() } else { b.tuple() }
    }

    /// What a card of a stage holds, with this share of each layer's experts.
    pub(crate) fn held(
        &self,
        pieces: &Pieces,
        [layers, dense]: [u32; 2],
        tables: f64,
        in_flight: f64,
        has_mtp: bool,
        share: f64,
    ) -> Held {
        let model = self.model;
        let table = f64::from(model.vocabulary) * f64::from(model.width);
        let experts = 3.0 * f64::from(model.experts) * f64::from(model.width) * f64::from(model.expert_width);
        let cut = ModelSpec { layers, dense_layers: dense, tied: true, mtp_layers: 0, ..model.clone() };
        let own = cut.parameters() as f64 - table;
        let mtp = if has_mtp { model.mtp_parameters() as f64 } else { 0.0 };
        let routed = f64::from(layers - dense) + if mtp > 0.0 { 1.0 } else { 0.0 };
        let shared = own + table * tables + mtp - routed * experts;
        let numbers = shared + routed * experts * share;
        let kept = f64::from(dense) * pieces.dense_kept_bytes
            + f64::from(layers - dense) * pieces.moe_kept_bytes
            + pieces.inputs_bytes;
        let bytes = vec![
            ("weights", WIDTH * numbers),
            ("gradients", WIDTH * numbers),
            ("moments", 2.0 * WIDTH * numbers),
            ("kept for backward", in_flight * kept),
            ("scratch", pieces.scratch_bytes),
        ];
        Held { bytes, numbers, shared }
    }
}

/// The sum of parts.
pub(crate) fn total(parts: &[(&'static str, f64)]) -> f64 {
    parts.iter().map(|(_, amount)| amount).sum()
}

/// The layout of the fewest cards that fits, the one that recomputes least first.
pub(crate) fn fewest_cards<'a>(layouts: impl Iterator<Item = &'a Layout>) -> Option<&'a Layout> {
    layouts.min_by_key(|layout| layout.cards)
}

fn parts(memory: &StepMemory) -> Vec<(&'static str, f64)> {
    vec![
        ("weights", memory.weights_bytes as f64),
        ("gradients", memory.gradients_bytes as f64),
        ("moments", memory.moments_bytes as f64),
        ("kept for backward", memory.kept_bytes as f64),
        ("scratch", (memory.scratch_bytes + memory.state_bytes) as f64),
    ]
}

/// Ops of a step that do not depend on its micro-batches.
fn is_update(name: &str) -> bool {
    matches!(name, "fill" | "adamw" | "sum_of_squares" | "balance_bias")
}

/// The op where each card holds its part of the experts: as many rows, fewer matrices.
fn spread_experts(op: &StepOp, spread: u32) -> StepOp {
    let [rows, experts, n, k, _] = op.sizes;
    let experts = experts.div_ceil(spread as usize);
    let cost = match op.name {
        _ if spread == 1 => return *op,
        "grouped_matmul" => cost::grouped_matmul(rows, [experts, n, k], WIDTH as usize),
        "grouped_matmul_weights" => cost::grouped_matmul_weights(rows, [experts, n, k], WIDTH as usize),
        _ => return *op,
    };
    StepOp { sizes: [rows, experts, n, k, 0], cost, ..*op }
}
