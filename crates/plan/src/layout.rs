//! How a replica of the model can lie on the cards of one chip type: how fast each such layout is, and what
//! it fills.
//!
//! Layers go to the stages of a pipeline; the experts of a layer are spread over the cards of a stage, each
//! of which computes its own micro-batches and holds all other weights of the stage. Costs are those of
//! `spec::step`'s ops.

use crate::catalogue::Chip;
use crate::floors::Pace;
use crate::pair::SecondSide;
use crate::pieces::Pieces;
use crate::profile::Profile;
use crate::request::Request;
use crate::stage::{Filled, Held, Load, Span, fuller};
use crate::times::{Part, Times};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;

/// How a replica is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Stages of the pipeline.
    pub stages: u32,
    /// Cards of one stage, over which the experts of a layer are spread.
    pub expert_cards: u32,
    /// What the backward pass computes again.
    pub recompute: Recompute,
}

/// A replica's place on its cards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// How the replica is cut.
    pub shape: Shape,
    /// Cards of the replica; of its first chip type, where it lies on two.
    pub cards: u32,
    /// Tokens of one micro-batch on every card of a stage.
    pub micro_tokens: f64,
    /// Tokens per second of the replica while its pipeline is full.
    pub tokens_per_s: f64,
    /// Seconds of each step whatever its tokens: filling the pipeline, agreeing within the replica, the
    /// update.
    pub fixed: Times,
    /// Seconds of one micro-batch in the slowest stage.
    pub micro: Times,
    /// Seconds of one exchange with other replicas.
    pub exchange_s: f64,
    /// What fills the fullest card; of the first chip type, where the replica lies on two.
    pub memory: Filled,
    /// The second chip type's side of a replica that lies on two.
    pub second: Option<SecondSide>,
}

/// The share of a card's memory that a model may fill; the rest is left to the runtime.
pub(crate) const USABLE_MEMORY: f64 = 0.95;

/// Bytes of an f32.
pub(crate) const WIDTH: f64 = 4.0;

/// Fleet sizes, in cards, for which the best layout is kept.
const SCALES: [u32; 15] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/// Lays the model out on one chip type.
pub(crate) struct Placer<'a> {
    pub request: &'a Request,
    pub model: &'a ModelSpec,
    pub chip: &'a Chip,
    /// The chip's measured speed, where there is one.
    pub profile: Option<&'a Profile>,
    /// How optimistic the forecast is where there is none.
    pub pace: Pace,
}

impl Layout {
    /// Seconds of a step's smallest share: one micro-batch on every card of a stage.
    pub(crate) fn least_s(&self) -> f64 {
        self.fixed.total() + self.micro.total()
    }
}

impl Placer<'_> {
    /// All layouts, those too large for the card included.
    pub(crate) fn all(&self) -> Vec<Layout> {
        let model = self.model;
        let most = model.experts.max(1).min(self.request.batch_sequences / self.request.micro_sequences);
        let cards = (0..10).map(|power| 1_u32 << power);
        let cards: Vec<u32> = cards
            .filter(|&cards| cards == 1 || cards <= most && model.experts.is_multiple_of(cards))
            .collect();
        let mut all = Vec::new();
        for recompute in [Recompute::Nothing, Recompute::Experts, Recompute::Block] {
            for &expert_cards in &cards {
                let pieces = self.pieces(expert_cards, recompute);
                let shapes = (1..=model.layers).map(|stages| Shape { stages, expert_cards, recompute });
                all.extend(shapes.map(|shape| self.layout(&pieces, shape)));
            }
        }
        all
    }

    /// Whether the fullest card has room.
    pub(crate) fn fits(&self, layout: &Layout) -> bool {
        layout.memory.total() <= self.usable_bytes()
    }

    /// Bytes of a card that the model may fill.
    pub(crate) fn usable_bytes(&self) -> f64 {
        self.chip.memory_bytes * USABLE_MEMORY
    }

    /// The layouts worth searching: for each fleet size the one that uses its cards best, whatever their
    /// price, and the one of the fewest cards.
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

    /// Tokens per second of each card of a replica of `cards` cards, in a fleet of `fleet` cards that share a
    /// step.
    pub(crate) fn card_speed(&self, layout: &Layout, cards: u32, fleet: u32) -> f64 {
        let request = self.request;
        let (cards, sequence) = (f64::from(cards), f64::from(request.sequence));
        let share = f64::from(request.batch_sequences) * cards / f64::from(fleet);
        let smallest = f64::from(request.micro_sequences * layout.shape.expert_cards);
        let tokens = sequence * share.max(smallest);
        tokens / (layout.fixed.total() + tokens / layout.tokens_per_s + layout.exchange_s) / cards
    }

    /// Tokens of one micro-batch.
    pub(crate) fn micro_tokens(&self) -> f64 {
        f64::from(self.request.micro_sequences) * f64::from(self.request.sequence)
    }

    pub(crate) fn layout(&self, pieces: &Pieces, shape: Shape) -> Layout {
        let model = self.model;
        let cut = self.balanced(pieces, shape);
        let held = self.fullest(pieces, shape, cut.layers);
        let all = (model.parameters() + model.mtp_parameters()) as f64;
        let cards = f64::from(shape.expert_cards);
        let agreeing_s =
            2.0 * WIDTH * held.shared * (cards - 1.0) / cards / self.link_bytes_per_s(shape.expert_cards);
        let micro_s = cut.slowest.total();
        Layout {
            shape,
            cards: shape.stages * shape.expert_cards,
            micro_tokens: self.micro_tokens() * cards,
            tokens_per_s: self.micro_tokens() * cards / micro_s,
            fixed: Times::default()
                .with(Part::PipelineFilling, f64::from(shape.stages - 1) * micro_s)
                .with(Part::AgreeingInReplica, agreeing_s)
                .with(Part::Update, pieces.update_s * held.numbers / all),
            micro: cut.slowest,
            exchange_s: 2.0 * WIDTH * held.numbers / self.network_bytes_per_s(),
            memory: held.filled,
            second: None,
        }
    }

    /// The pipeline whose slowest stage is fastest, of those whose stages all have as many layers but the
    /// last.
    pub(crate) fn balanced(&self, pieces: &Pieces, shape: Shape) -> Cut {
        let (layers, stages) = (self.model.layers, shape.stages);
        if stages == 1 {
            let whole = Span { from: 0, to: layers, is_last: true };
            return Cut { layers, slowest: self.stage(pieces, whole, shape) };
        }
        let even = layers / stages;
        let choices = (even..even + 3).filter(|each| *each > 0 && (stages - 1) * each < layers);
        let slowest = |each: u32| {
            // A stage in the middle is as slow as any that has no dense layers; the first has them all.
            let at = if stages > 2 { each } else { 0 };
            let spans = [
                Span { from: 0, to: each, is_last: false },
                Span { from: at, to: at + each, is_last: false },
                Span { from: (stages - 1) * each, to: layers, is_last: true },
            ];
            let all = spans.map(|span| self.stage(pieces, span, shape));
            all.into_iter().max_by(|a, b| a.total().total_cmp(&b.total())).unwrap_or_default()
        };
        let all = choices.map(|layers| Cut { layers, slowest: slowest(layers) });
        let best = all.min_by(|a, b| a.slowest.total().total_cmp(&b.slowest.total()));
        best.unwrap_or(Cut { layers: 1, slowest: Times::default() })
    }

    /// What the fullest card of a replica holds, all of whose stages but the last have `layers` layers.
    fn fullest(&self, pieces: &Pieces, shape: Shape, layers: u32) -> Held {
        let model = self.model;
        if shape.stages == 1 && shape.expert_cards == 1 {
            let numbers = (model.parameters() + model.mtp_parameters()) as f64;
            return Held { filled: Filled::of(&pieces.whole), numbers, shared: numbers };
        }
        let [one, other] = self.end_loads(shape.stages, layers, 1.0 / f64::from(shape.expert_cards));
        fuller(self.held(pieces, one), self.held(pieces, other))
    }

    /// The loads of a card in the first and in the last stage of a pipeline, all of whose stages but the last
    /// have `layers` layers.
    pub(crate) fn end_loads(&self, stages: u32, layers: u32, expert_share: f64) -> [Load; 2] {
        let model = self.model;
        let dense_layers = model.dense_layers.min(layers);
        let micros_in_flight = f64::from(stages);
        let first = Load { layers, dense_layers, tables: 1, micros_in_flight, has_mtp: false, expert_share };
        if stages == 1 {
            let tables = if model.tied { 1 } else { 2 };
            return [Load { tables, has_mtp: true, ..first }; 2];
        }
        let last = model.layers - (stages - 1) * layers;
        [first, Load { layers: last, dense_layers: 0, micros_in_flight: 1.0, has_mtp: true, ..first }]
    }
}

/// A pipeline over one chip type.
pub(crate) struct Cut {
    /// Layers of every stage but the last.
    pub layers: u32,
    /// One micro-batch in the slowest stage.
    pub slowest: Times,
}

/// The layout of the fewest cards; of as many, the one that recomputes least, which comes first.
pub(crate) fn fewest_cards<'a>(layouts: impl Iterator<Item = &'a Layout>) -> Option<&'a Layout> {
    layouts.min_by_key(|layout| layout.cards)
}
