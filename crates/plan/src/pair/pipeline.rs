//! A pipeline over two chip types: stages of the first, then stages of the second, with as many layers as
//! each can take.

use super::{Division, Drawn, Pair, Sides};
use crate::layout::{Layout, Shape, WIDTH};
use crate::stage::{Held, Load, Span};
use crate::times::{Part, Times};
use crate::uneven::{Holder, apportion};

/// Where a stage of a pipeline over two types lies.
#[derive(Clone, Copy, PartialEq)]
struct Place {
    /// The chip type: 0 or 1.
    side: usize,
    is_first: bool,
    is_last: bool,
    /// Beside a stage of the other type.
    is_border: bool,
}

/// A stage of such a pipeline.
#[derive(Clone, Copy)]
struct Stage {
    place: Place,
    /// Micro-batches that it keeps at once.
    in_flight: u32,
}

impl Pair<'_> {
    /// A pipeline with the given number of stages of each type; none where the model is too small or the
    /// memory too little.
    pub(super) fn pipeline(&self, stages: [u32; 2], sides: &Sides<'_>) -> Option<Layout> {
        let model = self.placers[0].model;
        let count = stages[0] + stages[1];
        let shape = Shape { stages: count, expert_cards: sides.expert_cards, recompute: sides.recompute };
        let routed = model.layers.checked_sub(model.dense_layers).filter(|layers| *layers >= count)?;
        let place = |stage: u32| Place {
            side: usize::from(stage >= stages[0]),
            is_first: stage == 0,
            is_last: stage + 1 == count,
            is_border: stage + 1 == stages[0] || stage == stages[0],
        };
        let all: Vec<Stage> =
            (0..count).map(|at| Stage { place: place(at), in_flight: count - at }).collect();
        let holders = self.holders(&all, shape, sides)?;
        let layers = apportion(routed, &holders)?;
        let end_s = |at: usize| holders[at].seconds(layers[at]);
        let slowest = (0..all.len()).max_by(|&a, &b| end_s(a).total_cmp(&end_s(b)))?;
        let fullest = |side: usize| {
            let own = all.iter().zip(&layers).filter(|(stage, _)| stage.place.side == side);
            let held = own.map(|(stage, layers)| self.held(stage, *layers, sides));
            held.max_by(|a, b| a.filled.total().total_cmp(&b.filled.total()))
        };
        let second: u32 = layers[stages[0] as usize..].iter().sum();
        let drawn = Drawn {
            shape,
            cards: stages.map(|stages| stages * sides.expert_cards),
            micro: self.stage(&all[slowest], layers[slowest], shape, sides),
            held: [fullest(0)?, fullest(1)?],
            within_bytes_per_s: self.placers.map(|placer| placer.link_bytes_per_s(sides.expert_cards)),
            share: f64::from(second) / f64::from(model.layers),
            division: Division::Pipeline {
                layers: [model.layers - second, second],
                stages,
                expert_cards: sides.expert_cards,
            },
        };
        Some(self.layout(drawn, sides))
    }

    /// What each stage takes and has room for.
    fn holders(&self, stages: &[Stage], shape: Shape, sides: &Sides<'_>) -> Option<Vec<Holder>> {
        let mut holders: Vec<Holder> = Vec::new();
        for (at, stage) in stages.iter().enumerate() {
            let placer = self.placers[stage.place.side];
            let like = at.checked_sub(1).filter(|before| stages[*before].place == stage.place);
            let [fixed_s, one_s] = match like.map(|before| holders[before]) {
                Some(before) => [before.fixed_s, before.fixed_s + before.each_s],
                None => [0, 1].map(|layers| self.stage(stage, layers, shape, sides).total()),
            };
            let [none, one] = [0, 1].map(|layers| self.held(stage, layers, sides).filled.total());
            let room = (placer.usable_bytes() - none) / (one - none);
            let least = u32::from(!(stage.place.is_first && placer.model.dense_layers > 0));
            if room < f64::from(least) {
                return None;
            }
            holders.push(Holder { fixed_s, each_s: one_s - fixed_s, least, most: room as u32 });
        }
        Some(holders)
    }

    /// One micro-batch of a stage with `layers` layers besides the dense ones.
    fn stage(&self, stage: &Stage, layers: u32, shape: Shape, sides: &Sides<'_>) -> Times {
        let Place { side, is_first, is_last, is_border } = stage.place;
        let placer = self.placers[side];
        let dense = placer.model.dense_layers;
        let span = Span { from: if is_first { 0 } else { dense }, to: dense + layers, is_last };
        let times = placer.stage(sides.pieces[side], span, shape);
        if !is_border {
            return times;
        }
        let crossing = 2.0 * placer.micro_tokens() * WIDTH * f64::from(placer.model.width);
        times.with(Part::BetweenStages, crossing / self.network_bytes_per_s())
    }

    /// What a card of a stage with `layers` layers besides the dense ones holds.
    fn held(&self, stage: &Stage, layers: u32, sides: &Sides<'_>) -> Held {
        let Place { side, is_first, is_last, .. } = stage.place;
        let placer = self.placers[side];
        let dense_layers = if is_first { placer.model.dense_layers } else { 0 };
        let load = Load {
            layers: layers + dense_layers,
            dense_layers,
            tables: u32::from(is_first) + u32::from(is_last),
            micros_in_flight: f64::from(stage.in_flight),
            has_mtp: is_last,
            expert_share: 1.0 / f64::from(sides.expert_cards),
        };
        placer.held(sides.pieces[side], load)
    }
}
