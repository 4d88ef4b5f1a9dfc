//! Stages in which cards of two chip types share experts and sequences.

use super::{Division, Drawn, Pair, Sides};
use crate::layout::{Layout, Shape};
use crate::stage::{Held, fuller};
use crate::times::{Part, Times};
use crate::uneven::{Holder, apportion};

/// Which card of a stage is looked at, and what it has.
#[derive(Clone, Copy)]
struct Card {
    /// The chip type: 0 or 1.
    side: usize,
    experts: u32,
    /// Its sequences over those of a micro-batch.
    sequence_load: f64,
}

impl Pair<'_> {
    /// `stages` stages with the given number of cards of each type; none where the types would cut the
    /// layers differently, the model is too small or the memory too little.
    pub(super) fn shared(&self, stages: u32, cards: [u32; 2], sides: &Sides<'_>) -> Option<Layout> {
        let model = self.placers[0].model;
        let lanes = cards[0] + cards[1];
        if stages > model.layers || model.experts < lanes {
            return None;
        }
        let shape = Shape { stages, expert_cards: lanes, recompute: sides.recompute };
        let cuts = [0, 1].map(|side| self.placers[side].balanced(sides.pieces[side], shape));
        let layers = cuts[0].layers;
        if cuts[1].layers != layers {
            return None;
        }
        let parts = cuts.map(|cut| cut.slowest);
        let micro = self.placers[0].request.micro_sequences;
        let own_s = parts.map(|parts| parts.total() - parts.of(Part::Experts) - parts.of(Part::AllToAll));
        let expert_s =
            parts.map(|parts| parts.of(Part::Experts) * f64::from(lanes) / f64::from(model.experts));
        let each_s = own_s.map(|own_s| own_s / f64::from(micro));
        let sequences = divided(lanes * micro, cards, each_s, [u32::MAX; 2])?;
        let loads = sequences.map(|count| f64::from(count) / f64::from(micro));
        let held = |side: usize, experts: u32| {
            self.mixed(Card { side, experts, sequence_load: loads[side] }, shape, layers, sides)
        };
        let rooms = [0, 1].map(|side| {
            let room = self.placers[side].usable_bytes();
            (1..=model.experts).take_while(|experts| held(side, *experts).filled.total() <= room).count()
                as u32
        });
        let experts = divided(model.experts, cards, expert_s, rooms)?;
        let slower = |of: &dyn Fn(usize) -> f64| of(0).max(of(1));
        let busiest = slower(&|side| loads[side]);
        let crossing_s = |side: usize| {
            let link = self.placers[side].link_bytes_per_s(lanes);
            parts[side].of(Part::AllToAll) * busiest * link / self.network_bytes_per_s()
        };
        let drawn = Drawn {
            shape,
            cards: cards.map(|cards| cards * stages),
            micro: Times::default()
                .with(Part::Experts, slower(&|side| expert_s[side] * f64::from(experts[side])))
                .with(Part::AttentionAndRest, slower(&|side| own_s[side] * loads[side]))
                .with(Part::AllToAll, slower(&crossing_s)),
            held: [held(0, experts[0]), held(1, experts[1])],
            within_bytes_per_s: [self.network_bytes_per_s(); 2],
            share: self.share(cards, experts, sequences),
            division: Division::Shared { stages, cards, experts, sequences },
        };
        Some(self.layout(drawn, sides))
    }

    /// The second type's share of a replica's work.
    fn share(&self, cards: [u32; 2], experts: [u32; 2], sequences: [u32; 2]) -> f64 {
        let model = self.placers[0].model;
        let routed = 3.0 * f64::from(model.width) * f64::from(model.expert_width) * f64::from(model.choices);
        let routed =
            routed * f64::from(model.layers - model.dense_layers) / model.activated_parameters() as f64;
        let second = |count: [u32; 2]| {
            let [a, b] = [0, 1].map(|side| f64::from(count[side]) * f64::from(cards[side]));
            b / (a + b)
        };
        routed * second(experts) + (1.0 - routed) * second(sequences)
    }

    /// What a card of the fuller of a pipeline's two ends holds. What is kept, and the scratch, grow with its
    /// sequences or with the rows of its experts, whichever are more than an equal share.
    fn mixed(&self, card: Card, shape: Shape, layers: u32, sides: &Sides<'_>) -> Held {
        let placer = self.placers[card.side];
        let expert_share = f64::from(card.experts) / f64::from(placer.model.experts);
        let load = card.sequence_load.max(expert_share * f64::from(shape.expert_cards)).max(1.0);
        let [first, last] = placer.end_loads(shape.stages, layers, expert_share).map(|mut end| {
            end.micros_in_flight *= load;
            let mut held = placer.held(sides.pieces[card.side], end);
            held.filled.scratch *= load;
            held
        });
        fuller(first, last)
    }
}

/// Divides things that take `each_s` seconds each by type: the most that a card of each type gets.
fn divided(things: u32, cards: [u32; 2], each_s: [f64; 2], rooms: [u32; 2]) -> Option<[u32; 2]> {
    let holder = |side: usize| Holder { fixed_s: 0.0, each_s: each_s[side], least: 1, most: rooms[side] };
    let holders: Vec<Holder> =
        (0..2).flat_map(|side| (0..cards[side]).map(move |_| side)).map(holder).collect();
    let counts = apportion(things, &holders)?;
    let (first, second) = counts.split_at(cards[0] as usize);
    Some([first, second].map(|counts| counts.iter().copied().max().unwrap_or(0)))
}
