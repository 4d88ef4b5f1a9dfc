//! One stage of a pipeline: how long a micro-batch takes in it, and what a card of it holds.

use crate::answer::Share;
use crate::floors::link_share;
use crate::layout::{Placer, Shape, WIDTH};
use crate::pieces::Pieces;
use crate::times::{Part, Times};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;
use lingot_spec::step::StepMemory;

/// The layers of a stage, from the first to before `to`.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub from: u32,
    pub to: u32,
    pub is_last: bool,
}

/// What lies on a card of a stage.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub layers: u32,
    /// Dense layers among them.
    pub dense_layers: u32,
    /// Tables of the vocabulary: embedding and head.
    pub tables: u32,
    /// Micro-batches kept for the backward pass at once.
    pub micros_in_flight: f64,
    pub has_mtp: bool,
    /// The card's share of each layer's experts.
    pub expert_share: f64,
}

/// What a card holds.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub filled: Filled,
    /// Numbers trained there.
    pub numbers: f64,
    /// Those of them that belong to no expert: the cards of a stage share them.
    pub shared: f64,
}

/// Bytes of a card by part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Filled {
    /// Weights in f32.
    pub weights: f64,
    /// Gradients in f32.
    pub gradients: f64,
    /// AdamW's two moments in f32.
    pub moments: f64,
    /// Activations kept between forward and backward.
    pub kept: f64,
    /// What comes on top at the worst moment.
    pub scratch: f64,
}

impl Filled {
    /// The parts of a step on one card.
    pub(crate) fn of(memory: &StepMemory) -> Filled {
        Filled {
            weights: memory.weights_bytes as f64,
            gradients: memory.gradients_bytes as f64,
            moments: memory.moments_bytes as f64,
            kept: memory.kept_bytes as f64,
            scratch: (memory.scratch_bytes + memory.state_bytes) as f64,
        }
    }

    /// The sum of all parts, in bytes.
    pub(crate) fn total(&self) -> f64 {
        self.weights + self.gradients + self.moments + self.kept + self.scratch
    }

    /// The parts by their names in answers.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let share = |part: &str, amount| Share { part: part.to_owned(), amount };
        vec![
            share("weights", self.weights),
            share("gradients", self.gradients),
            share("moments", self.moments),
            share("kept for backward", self.kept),
            share("scratch", self.scratch),
        ]
    }
}

/// The one that fills more.
pub(crate) fn fuller(one: Held, other: Held) -> Held {
    if one.filled.total() >= other.filled.total() { one } else { other }
}

impl Placer<'_> {
    /// One micro-batch in a stage of a pipeline of that shape.
    pub(crate) fn stage(&self, pieces: &Pieces, span: Span, shape: Shape) -> Times {
        let dense = self.model.dense_layers.clamp(span.from, span.to) - span.from;
        let moe = f64::from(span.to - span.from - dense);
        let ends = if span.is_last { 1.0 } else { 0.0 };
        let mut times = Times::default();
        times.add_times(ends, &pieces.ends);
        times.add_times(f64::from(dense), &pieces.dense_layer);
        times.add_times(moe, &pieces.moe_layer);
        let row_bytes = WIDTH * f64::from(self.model.width);
        let cards = f64::from(shape.expert_cards);
        // There and back, forward and backward; a recomputed block sends its rows there and back once more.
        let ways = if shape.recompute == Recompute::Block { 6.0 } else { 4.0 };
        let sent = self.micro_tokens() * f64::from(self.model.choices) * row_bytes * (cards - 1.0) / cards;
        let routed = moe + ends * f64::from(self.model.mtp_layers);
        let link = self.link_bytes_per_s(shape.expert_cards);
        let all_to_all_s = ways * routed * sent * self.skew(shape.expert_cards) / link;
        let between_s = if shape.stages == 1 {
            0.0
        } else {
            2.0 * self.micro_tokens() * row_bytes / self.link_bytes_per_s(shape.stages * shape.expert_cards)
        };
        times.with(Part::AllToAll, all_to_all_s).with(Part::BetweenStages, between_s)
    }

    /// What a card of such a load holds.
    pub(crate) fn held(&self, pieces: &Pieces, load: Load) -> Held {
        let model = self.model;
        let Load { layers, dense_layers, .. } = load;
        let table = f64::from(model.vocabulary) * f64::from(model.width);
        let experts = 3.0 * f64::from(model.experts) * f64::from(model.width) * f64::from(model.expert_width);
        let cut = ModelSpec { layers, dense_layers, tied: true, mtp_layers: 0, ..model.clone() };
        let own = cut.parameters() as f64 - table;
        let mtp = if load.has_mtp { model.mtp_parameters() as f64 } else { 0.0 };
        let routed = f64::from(layers - dense_layers) + if mtp > 0.0 { 1.0 } else { 0.0 };
        let shared = own + table * f64::from(load.tables) + mtp - routed * experts;
        let numbers = shared + routed * experts * load.expert_share;
        let kept = f64::from(dense_layers) * pieces.dense_kept_bytes
            + f64::from(layers - dense_layers) * pieces.moe_kept_bytes
            + pieces.inputs_bytes;
        let filled = Filled {
            weights: WIDTH * numbers,
            gradients: WIDTH * numbers,
            moments: 2.0 * WIDTH * numbers,
            kept: load.micros_in_flight * kept,
            scratch: pieces.scratch_bytes,
        };
        Held { filled, numbers, shared }
    }

    /// The bandwidth of a card within a group of `cards` cards: inside the machine, or over the network.
    pub(crate) fn link_bytes_per_s(&self, cards: u32) -> f64 {
        let is_inside = cards <= self.chip.cards_per_machine;
        let peak = if is_inside { self.chip.link_bytes_s } else { self.chip.network_bytes_s };
        peak * self.link_share()
    }

    /// The bandwidth of a card over the network.
    pub(crate) fn network_bytes_per_s(&self) -> f64 {
        self.chip.network_bytes_s * self.link_share()
    }

    /// The share of their bandwidth that links reach.
    fn link_share(&self) -> f64 {
        self.request.assume.bandwidth_efficiency.unwrap_or_else(|| link_share(self.pace))
    }
}
