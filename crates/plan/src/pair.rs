//! Replicas over two chip types: a pipeline whose stages hold unequally many layers ([`pipeline`]), or stages
//! whose cards of both types share experts and sequences unequally ([`shared`]). A type holds less of what it
//! is slow at; memory bounds what it holds.
//!
//! Everything between the types crosses the slower network. Time is taken to be in proportion to sequences
//! and experts.

mod pipeline;
mod shared;
#[cfg(test)]
mod tests;

use crate::layout::{Layout, Placer, Shape, WIDTH};
use crate::pieces::Pieces;
use crate::stage::{Filled, Held};
use crate::times::{Part, Times};
use lingot_spec::run::Recompute;

/// Stages of one type, and cards of a stage, that are tried.
const STAGES: [u32; 6] = [1, 2, 4, 8, 16, 32];
const EXPERT_CARDS: [u32; 5] = [1, 2, 4, 8, 16];

/// Fleet sizes, in cards, for which the best layout is kept.
const SCALES: [u32; 8] = [2, 4, 8, 16, 32, 64, 128, 256];

/// Proportions of the two types, as the logarithm to base 2 of cards of the first to cards of the second.
const PROPORTIONS: [f64; 5] = [-2.0, -1.0, 0.0, 1.0, 2.0];

/// The second chip type's side of a replica.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SecondSide {
    /// Cards of the second type.
    pub cards: u32,
    /// Its share of the replica's work.
    pub share: f64,
    /// What fills its fullest card.
    pub memory: Filled,
    /// How the replica lies on the two.
    pub division: Division,
}

/// How a replica lies on two chip types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Division {
    /// Layers and stages of each type.
    Pipeline {
        /// Layers by type.
        layers: [u32; 2],
        /// Stages by type.
        stages: [u32; 2],
        /// Cards of every stage.
        expert_cards: u32,
    },
    /// Every stage has cards of both types.
    Shared {
        /// Stages of the replica.
        stages: u32,
        /// Cards of a stage, by type.
        cards: [u32; 2],
        /// Experts of a card, by type.
        experts: [u32; 2],
        /// Sequences of a card, by type.
        sequences: [u32; 2],
    },
}

/// Two chip types of a request. The first holds the first layers, whose stages keep the most micro-batches,
/// so it is best the one with more memory.
pub(crate) struct Pair<'a> {
    pub placers: [&'a Placer<'a>; 2],
    pub variants: [&'a [Variant]; 2],
}

/// A chip's pieces for one way to recompute, with stages of a given number of cards.
pub(crate) struct Variant {
    expert_cards: u32,
    recompute: Recompute,
    pieces: Pieces,
}

/// What both types have in common in one replica.
struct Sides<'a> {
    pieces: [&'a Pieces; 2],
    expert_cards: u32,
    recompute: Recompute,
}

/// What a layout over two types follows from.
struct Drawn {
    shape: Shape,
    /// Cards by type.
    cards: [u32; 2],
    micro: Times,
    held: [Held; 2],
    /// Bandwidth between the cards of a stage, by type.
    within_bytes_per_s: [f64; 2],
    /// The second type's share of the work.
    share: f64,
    division: Division,
}

/// What pairs with this chip are made from: the same list, in the same order, for every chip of a request.
pub(crate) fn variants(placer: &Placer<'_>) -> Vec<Variant> {
    let request = placer.request;
    let is_possible = |cards: &u32| {
        *cards <= placer.model.experts.max(1) && cards * request.micro_sequences <= request.batch_sequences
    };
    let policies = [Recompute::Nothing, Recompute::Experts, Recompute::Block].into_iter();
    let of_policy = |recompute| {
        let variant = move |expert_cards| Variant {
            expert_cards,
            recompute,
            pieces: placer.pieces(expert_cards, recompute),
        };
        EXPERT_CARDS.into_iter().filter(is_possible).map(variant)
    };
    policies.flat_map(of_policy).collect()
}

impl Pair<'_> {
    /// The layouts worth searching, whatever the prices: for each fleet size the one that uses its peaks
    /// best, where it wastes less than replicas on each type alone (`own`) would; and where cards are scarce,
    /// for each proportion of the types the one of the fewest cards, so that whatever cards there are, some
    /// can be used.
    pub(crate) fn best(&self, own: [&[Layout]; 2], are_scarce: bool) -> Vec<Layout> {
        let all = self.all();
        let total = |layout: &Layout| cards(layout).iter().sum::<u32>();
        let mut kept: Vec<Layout> = Vec::new();
        let mut keep = |layout: Option<&Layout>| {
            kept.extend(layout.filter(|layout| !kept.contains(layout)).cloned());
        };
        for scale in SCALES {
            let speed = |layout: &Layout| self.placers[0].card_speed(layout, total(layout), scale);
            let alone = own.map(|own| {
                let fitting = own.iter().filter(|layout| layout.cards <= scale);
                fitting.map(speed).fold(0.0, f64::max)
            });
            let gain = |layout: &Layout| {
                let [a, b] = cards(layout).map(f64::from);
                speed(layout) * (a + b) / (a * alone[0] + b * alone[1])
            };
            let small = all.iter().filter(|layout| total(layout) <= scale);
            let best = small.max_by(|a, b| self.per_peak(a, speed(a)).total_cmp(&self.per_peak(b, speed(b))));
            keep(best.filter(|best| gain(best) > 1.0));
        }
        let proportion = |layout: &Layout| {
            let [a, b] = cards(layout).map(f64::from);
            (a / b).log2().round().clamp(PROPORTIONS[0], PROPORTIONS[4])
        };
        for wanted in PROPORTIONS.iter().filter(|_| are_scarce) {
            let alike = all.iter().filter(|layout| proportion(layout) == *wanted);
            keep(
                alike.min_by(|a, b| total(a).cmp(&total(b)).then(b.tokens_per_s.total_cmp(&a.tokens_per_s))),
            );
        }
        kept
    }

    /// Tokens per second over the sum of the peaks, of a layout whose cards reach `card_speed` tokens per
    /// second each.
    fn per_peak(&self, layout: &Layout, card_speed: f64) -> f64 {
        let [a, b] = cards(layout).map(f64::from);
        let [first, second] = self.placers.map(|placer| placer.chip.peak());
        card_speed * (a + b) / (a * first + b * second)
    }

    fn all(&self) -> Vec<Layout> {
        let machines = self.placers.map(|placer| placer.chip.cards_per_machine);
        let mut all = Vec::new();
        for (a, b) in self.variants[0].iter().zip(self.variants[1]) {
            let (expert_cards, recompute) = (a.expert_cards, a.recompute);
            let sides = Sides { pieces: [&a.pieces, &b.pieces], expert_cards, recompute };
            for first in STAGES {
                if machines.iter().all(|cards| expert_cards <= *cards) {
                    all.extend(STAGES.iter().filter_map(|&other| self.pipeline([first, other], &sides)));
                }
                let cuts = (1..expert_cards)
                    .filter(|cut| cut.is_power_of_two() || (expert_cards - cut).is_power_of_two());
                all.extend(cuts.filter_map(|cut| self.shared(first, [cut, expert_cards - cut], &sides)));
            }
        }
        all
    }

    fn layout(&self, drawn: Drawn, sides: &Sides<'_>) -> Layout {
        let model = self.placers[0].model;
        let Drawn { shape, held, .. } = drawn;
        let micro_s = drawn.micro.total();
        let all = (model.parameters() + model.mtp_parameters()) as f64;
        let slower = |of: &dyn Fn(usize) -> f64| of(0).max(of(1));
        let cards = f64::from(shape.expert_cards);
        let ways = 2.0 * WIDTH * (cards - 1.0) / cards;
        let agreeing_s = slower(&|side| ways * held[side].shared / drawn.within_bytes_per_s[side]);
        let update_s = slower(&|side| sides.pieces[side].update_s * held[side].numbers / all);
        let second = SecondSide {
            cards: drawn.cards[1],
            share: drawn.share,
            memory: held[1].filled,
            division: drawn.division,
        };
        Layout {
            shape,
            cards: drawn.cards[0],
            micro_tokens: self.placers[0].micro_tokens() * cards,
            tokens_per_s: self.placers[0].micro_tokens() * cards / micro_s,
            fixed: Times::default()
                .with(Part::PipelineFilling, f64::from(shape.stages - 1) * micro_s)
                .with(Part::AgreeingInReplica, agreeing_s)
                .with(Part::Update, update_s),
            micro: drawn.micro,
            exchange_s: slower(&|side| 2.0 * WIDTH * held[side].numbers / self.network_bytes_per_s()),
            memory: held[0].filled,
            second: Some(second),
        }
    }

    /// The network between the types: the slower one's.
    fn network_bytes_per_s(&self) -> f64 {
        self.placers[0].network_bytes_per_s().min(self.placers[1].network_bytes_per_s())
    }
}

impl Division {
    /// The division in words.
    pub(crate) fn words(&self) -> String {
        match self {
            Division::Pipeline { layers, stages, expert_cards } => format!(
                "{} layers in {} stages and {} in {}, x {expert_cards} expert cards",
                layers[0], stages[0], layers[1], stages[1]
            ),
            Division::Shared { stages, cards, experts, sequences } => format!(
                "{stages} stages, in each {} cards with {} experts and {} sequences and {} with {} and {}",
                cards[0], experts[0], sequences[0], cards[1], experts[1], sequences[1]
            ),
        }
    }
}

/// Cards of a replica by type.
fn cards(layout: &Layout) -> [u32; 2] {
    [layout.cards, layout.second.as_ref().map_or(0, |second| second.cards)]
}
