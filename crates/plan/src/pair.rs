//! Replicas over two chip types: a pipeline whose stages hold unequally many layers, or stages whose cards of both types
//! share experts and sequences unequally. What one type is slow at, it holds less of; memory bounds what it holds.
//!
//! Between types everything crosses the slower network. Time is taken to be in proportion to sequences and experts.

use crate::layout::{Drawer, Held, Layout, Pieces, USABLE_MEMORY, WIDTH, total};
use crate::uneven::{Holder, apportion};
use lingot_spec::run::Recompute;

/// Stages of one type, and cards of a stage, that are tried.
const STAGES: [u32; 6] = [1, 2, 4, 8, 16, 32];
const LANES: [u32; 5] = [1, 2, 4, 8, 16];

/// Fleets of so many cards, for which the best are kept.
const SCALES: [u32; 8] = [2, 4, 8, 16, 32, 64, 128, 256];

/// The second chip's side of a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    pub cards: u32,
    /// Of the replica's work.
    pub share: f64,
    /// Bytes of the fullest card, by part.
    pub memory: Vec<(&'static str, f64)>,
    /// How the two lie together.
    pub words: String,
}

/// What both types know of one way to recompute and spread.
struct Sides<'a> {
    pieces: [&'a Pieces; 2],
    recompute: Recompute,
}

type Parts = Vec<(&'static str, f64)>;

/// Two chip types of a request. The first holds the first layers, whose stages keep the most micro-batches: it is best
/// the one with more memory.
pub(crate) struct Pair<'a> {
    pub drawers: [&'a Drawer<'a>; 2],
    pub pieces: [&'a [Spread]; 2],
}

/// A chip's pieces for one way to recompute, its stages spread over so many cards.
pub(crate) struct Spread {
    lanes: u32,
    recompute: Recompute,
    pieces: Pieces,
}

/// All that pairs with this chip are drawn from, the same list for every chip of a request.
pub(crate) fn spreads(drawer: &Drawer<'_>) -> Vec<Spread> {
    let request = drawer.request;
    let can_spread = |lanes: &u32| {
        *lanes <= drawer.model.experts.max(1) && lanes * request.micro_sequences <= request.batch_sequences
    };
    let all = [Recompute::Nothing, Recompute::Experts, Recompute::Block].into_iter();
    let each = |recompute| LANES.into_iter().filter(can_spread).map(move |lanes| (recompute, lanes));
    let spread = |(recompute, lanes)| Spread { lanes, recompute, pieces: drawer.pieces(lanes, recompute) };
    all.flat_map(each).map(spread).collect()
}

impl Pair<'_> {
    /// Those worth having, whatever the prices: for each scale the one that wastes the least of its peaks, where it
    /// wastes less than replicas on each type alone (`own`) would; and where cards are scarce, for each proportion of the
    /// types that of the fewest cards.
    pub(crate) fn best(&self, own: [&[Layout]; 2], are_scarce: bool) -> Vec<Layout> {
        let all = self.all();
        let cards = |layout: &Layout| [layout.cards, layout.second.as_ref().map_or(0, |other| other.cards)];
        let total = |layout: &Layout| cards(layout).iter().sum::<u32>();
        let mut kept: Vec<Layout> = Vec::new();
        let mut keep = |layout: Option<&Layout>| {
            kept.extend(layout.filter(|layout| !kept.contains(layout)).cloned());
        };
        for scale in SCALES {
            let speed = |layout: &Layout| self.drawers[0].card_speed(layout, total(layout), scale);
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
        // By how many cards of the first come on one of the second, so that whatever cards there are, some can be used.
        let ratio = |layout: &Layout| {
            let [a, b] = cards(layout).map(f64::from);
            (a / b).log2().round().clamp(-2.0, 2.0)
        };
        let proportions = if are_scarce { [-2.0, -1.0, 0.0, 1.0, 2.0].as_slice() } else { &[] };
        for wanted in proportions {
            let alike = all.iter().filter(|layout| ratio(layout) == *wanted);
            keep(alike.min_by(|a, b| total(a).cmp(&total(b)).then(b.tokens_s.total_cmp(&a.tokens_s))));
        }
        kept
    }

    /// Of a layout whose cards reach so many tokens/s each: tokens per second over the sum of the peaks.
    fn per_peak(&self, layout: &Layout, card_speed: f64) -> f64 {
        let [a, b] = [layout.cards, layout.second.as_ref().map_or(0, |other| other.cards)].map(f64::from);
        let [first, second] = self.drawers.map(|drawer| drawer.chip.peak());
        card_speed * (a + b) / (a * first + b * second)
    }

    fn all(&self) -> Vec<Layout> {
        let chips = self.drawers.map(|drawer| drawer.chip.cards_per_machine);
        let mut all = Vec::new();
        for (a, b) in self.pieces[0].iter().zip(self.pieces[1]) {
            let lanes = a.lanes;
            let sides = Sides { pieces: [&a.pieces, &b.pieces], recompute: a.recompute };
            for first in STAGES {
                if chips.iter().all(|cards| lanes <= *cards) {
                    all.extend(STAGES.iter().filter_map(|&other| self.layers([first, other], lanes, &sides)));
                }
                let cuts = (1..lanes).filter(|cut| cut.is_power_of_two() || (lanes - cut).is_power_of_two());
                all.extend(cuts.filter_map(|cut| self.experts(first, [cut, lanes - cut], &sides)));
            }
        }
        all
    }

    /// A pipeline: stages of the first type, then stages of the second.
    fn layers(&self, stages: [u32; 2], lanes: u32, sides: &Sides<'_>) -> Option<Layout> {
        let model = self.drawers[0].model;
        let count = stages[0] + stages[1];
        let dense = model.dense_layers;
        let routed = model.layers.checked_sub(dense).filter(|layers| *layers >= count)?;
        let at = |stage: u32| Stage {
            side: usize::from(stage >= stages[0]),
            is_first: stage == 0,
            is_last: stage + 1 == count,
            is_border: stage + 1 == stages[0] || stage == stages[0],
            in_flight: count - stage,
        };
        let places: Vec<Stage> = (0..count).map(at).collect();
        let holders = self.holders(&places, lanes, sides)?;
        let layers = apportion(routed, &holders)?;
        let ends = (0..count as usize).map(|stage| holders[stage].seconds(layers[stage]));
        let slowest = (0..count as usize).zip(ends).max_by(|a, b| a.1.total_cmp(&b.1))?.0;
        let micro = self.stage(&at(slowest as u32), layers[slowest], [count, lanes], sides);
        let fullest = |side: usize| {
            let own = (0..count).filter(|stage| at(*stage).side == side);
            let held = own.map(|stage| self.held(&at(stage), layers[stage as usize], lanes, sides));
            held.max_by(|a, b| total(&a.bytes).total_cmp(&total(&b.bytes)))
        };
        let held = [fullest(0)?, fullest(1)?];
        let second: u32 = layers[stages[0] as usize..].iter().sum();
        let words = format!(
            "{} layers in {} stages and {second} in {}, x {lanes} expert cards",
            model.layers - second,
            stages[0],
            stages[1]
        );
        let cards = stages.map(|stages| stages * lanes);
        let share = f64::from(second) / f64::from(model.layers);
        let within = self.drawers.map(|drawer| drawer.link(lanes));
        Some(self.layout(Drawn { shape: [count, lanes], cards, micro, held, within, share, words, sides }))
    }

    /// What each stage of a pipeline takes and has room for.
    fn holders(&self, stages: &[Stage], lanes: u32, sides: &Sides<'_>) -> Option<Vec<Holder>> {
        let mut holders: Vec<Holder> = Vec::new();
        for (at, stage) in stages.iter().enumerate() {
            let drawer = self.drawers[stage.side];
            let like = at.checked_sub(1).filter(|before| stages[*before].is_like(stage));
            let shape = [stages.len() as u32, lanes];
            let [fixed_s, one_s] = match like.map(|before| holders[before]) {
                Some(before) => [before.fixed_s, before.fixed_s + before.each_s],
                None => [0, 1].map(|layers| total(&self.stage(stage, layers, shape, sides))),
            };
            let [none, one] = [0, 1].map(|layers| total(&self.held(stage, layers, lanes, sides).bytes));
            let room = (drawer.chip.memory_bytes * USABLE_MEMORY - none) / (one - none);
            let least = u32::from(!(stage.is_first && drawer.model.dense_layers > 0));
            if room < f64::from(least) {
                return None;
            }
            holders.push(Holder { fixed_s, each_s: one_s - fixed_s, least, most: room as u32 });
        }
        Some(holders)
    }

    /// Stages in which cards of both types share experts and sequences.
    fn experts(&self, stages: u32, cards: [u32; 2], sides: &Sides<'_>) -> Option<Layout> {
        let model = self.drawers[0].model;
        let lanes = cards[0] + cards[1];
        if stages > model.layers || model.experts < lanes {
            return None;
        }
        let [(first, a), (other, b)] = [0, 1]
            .map(|side| self.drawers[side].balanced(sides.pieces[side], stages, lanes, sides.recompute));
        if first != other {
            return None; // The types would cut the layers differently: no such stage is drawn.
        }
        let micro = f64::from(self.drawers[0].request.micro_sequences);
        let own = [&a, &b].map(|parts| total(parts) - part(parts, "experts") - part(parts, "all-to-all"));
        let all_experts = f64::from(model.experts);
        let expert = [&a, &b].map(|parts| part(parts, "experts") * f64::from(lanes) / all_experts);
        let sequences = lanes * self.drawers[0].request.micro_sequences;
        let sequences = divided(sequences, cards, own.map(|own| own / micro), [u32::MAX; 2])?;
        let times = sequences.map(|count| f64::from(count) / micro);
        let held =
            |side: usize, experts: u32| self.mixed(side, [stages, lanes, first], experts, times[side], sides);
        let rooms = [0, 1].map(|side| {
            let room = self.drawers[side].chip.memory_bytes * USABLE_MEMORY;
            (1..=model.experts).take_while(|experts| total(&held(side, *experts).bytes) <= room).count()
                as u32
        });
        let experts = divided(model.experts, cards, expert, rooms)?;
        let slower = |of: [f64; 2]| of[0].max(of[1]);
        let crossing = [(0, &a), (1, &b)].map(|(side, parts)| {
            let link = self.drawers[side].link(lanes);
            part(parts, "all-to-all") * slower(times) * link / self.network()
        });
        let words = format!(
            "{stages} stages, in each {} cards with {} experts and {} sequences and {} with {} and {}",
            cards[0], experts[0], sequences[0], cards[1], experts[1], sequences[1]
        );
        Some(self.layout(Drawn {
            shape: [stages, lanes],
            cards: cards.map(|cards| cards * stages),
            micro: vec![
                ("experts", slower([0, 1].map(|side| expert[side] * f64::from(experts[side])))),
                ("attention and the rest", slower([0, 1].map(|side| own[side] * times[side]))),
                ("all-to-all", slower(crossing)),
            ],
            held: [held(0, experts[0]), held(1, experts[1])],
            within: [self.network(); 2],
            share: self.share(cards, experts, sequences),
            words,
            sides,
        }))
    }

    /// Of a replica's work, what the second type does.
    fn share(&self, cards: [u32; 2], experts: [u32; 2], sequences: [u32; 2]) -> f64 {
        let model = self.drawers[0].model;
        let routed = 3.0 * f64::from(model.width) * f64::from(model.expert_width) * f64::from(model.choices);
        let routed =
            routed * f64::from(model.layers - model.dense_layers) / model.activated_parameters() as f64;
        let second = |count: [u32; 2]| {
            let [a, b] = [0, 1].map(|side| f64::from(count[side]) * f64::from(cards[side]));
            b / (a + b)
        };
        routed * second(experts) + (1.0 - routed) * second(sequences)
    }

    fn layout(&self, drawn: Drawn<'_>) -> Layout {
        let (model, request) = (self.drawers[0].model, self.drawers[0].request);
        let [stages, lanes] = drawn.shape;
        let micro_s = total(&drawn.micro);
        let all = (model.parameters() + model.mtp_parameters()) as f64;
        let slower = |of: &dyn Fn(usize) -> f64| of(0).max(of(1));
        let held = &drawn.held;
        let ways = 2.0 * WIDTH * (f64::from(lanes) - 1.0) / f64::from(lanes);
        let agreeing = slower(&|side| ways * held[side].shared / drawn.within[side]);
        let update = slower(&|side| drawn.sides.pieces[side].update_s * held[side].numbers / all);
        let exchange_s = slower(&|side| 2.0 * WIDTH * held[side].numbers / self.network());
        let tokens = f64::from(request.micro_sequences) * f64::from(request.sequence) * f64::from(lanes);
        let [first, second] = drawn.held;
        Layout {
            stages,
            expert_cards: lanes,
            recompute: drawn.sides.recompute,
            cards: drawn.cards[0],
            tokens_s: tokens / micro_s,
            fixed: vec![
                ("pipeline filling", f64::from(stages - 1) * micro_s),
                ("agreeing within a replica", agreeing),
                ("update", update),
            ],
            micro: drawn.micro,
            exchange_s,
            memory: first.bytes,
            second: Some(Other {
                cards: drawn.cards[1],
                share: drawn.share,
                memory: second.bytes,
                words: drawn.words,
            }),
        }
    }

    /// One micro-batch of a stage with so many layers besides the dense ones.
    fn stage(&self, stage: &Stage, layers: u32, [stages, lanes]: [u32; 2], sides: &Sides<'_>) -> Parts {
        let drawer = self.drawers[stage.side];
        let dense = drawer.model.dense_layers;
        let from = if stage.is_first { 0 } else { dense };
        let range = [from, dense + layers];
        let mut parts =
            drawer.stage(sides.pieces[stage.side], range, stage.is_last, [stages, lanes], sides.recompute);
        if stage.is_border {
            let request = drawer.request;
            let tokens = f64::from(request.micro_sequences) * f64::from(request.sequence);
            let crossing = 2.0 * tokens * WIDTH * f64::from(drawer.model.width) / self.network();
            parts.retain(|(part, _)| *part != "between stages");
            parts.push(("between stages", crossing));
        }
        parts
    }

    fn held(&self, stage: &Stage, layers: u32, lanes: u32, sides: &Sides<'_>) -> Held {
        let drawer = self.drawers[stage.side];
        let dense = if stage.is_first { drawer.model.dense_layers } else { 0 };
        let tables = u32::from(stage.is_first) + u32::from(stage.is_last);
        let pieces = sides.pieces[stage.side];
        let in_flight = f64::from(stage.in_flight);
        drawer.held(
            pieces,
            [layers + dense, dense],
            f64::from(tables),
            in_flight,
            stage.is_last,
            1.0 / f64::from(lanes),
        )
    }

    /// The fuller of a pipeline's first and last stages, on a card with so many experts. What is kept, and the scratch,
    /// grow with its sequences or with the rows of its experts, whichever are more than an equal share.
    fn mixed(
        &self,
        side: usize,
        [stages, lanes, first]: [u32; 3],
        experts: u32,
        times: f64,
        sides: &Sides<'_>,
    ) -> Held {
        let (drawer, pieces) = (self.drawers[side], sides.pieces[side]);
        let model = drawer.model;
        let share = f64::from(experts) / f64::from(model.experts);
        let dense = model.dense_layers.min(first);
        let tables = if model.tied { 1.0 } else { 2.0 };
        let load = times.max(share * f64::from(lanes)).max(1.0);
        let held = |layers: [u32; 2], tables: f64, in_flight: u32, is_last: bool| {
            let mut held = drawer.held(pieces, layers, tables, f64::from(in_flight) * load, is_last, share);
            held.bytes
                .iter_mut()
                .filter(|(part, _)| *part == "scratch")
                .for_each(|(_, bytes)| *bytes *= load);
            held
        };
        if stages == 1 {
            return held([first, dense], tables, 1, true);
        }
        let last = model.layers - (stages - 1) * first;
        let head = held([first, dense], 1.0, stages, false);
        let tail = held([last, 0], 1.0, 1, true);
        if total(&head.bytes) >= total(&tail.bytes) { head } else { tail }
    }

    /// Of the slower type.
    fn network(&self) -> f64 {
        let of =
            |drawer: &Drawer<'_>| drawer.chip.network_bytes_s * drawer.request.assume.bandwidth_efficiency;
        of(self.drawers[0]).min(of(self.drawers[1]))
    }
}

/// What a layout follows from.
struct Drawn<'a> {
    /// Stages, and cards of a stage.
    shape: [u32; 2],
    cards: [u32; 2],
    micro: Parts,
    held: [Held; 2],
    /// Bytes per second between the cards of a stage.
    within: [f64; 2],
    share: f64,
    words: String,
    sides: &'a Sides<'a>,
}

fn part(parts: &Parts, name: &str) -> f64 {
    parts.iter().filter(|(part, _)| *part == name).map(|(_, seconds)| seconds).sum()
}

/// Of things that take so long each, the most that a card of each type gets.
fn divided(things: u32, cards: [u32; 2], each_s: [f64; 2], rooms: [u32; 2]) -> Option<[u32; 2]> {
    let holder = |side: usize| Holder { fixed_s: 0.0, each_s: each_s[side], least: 1, most: rooms[side] };
    let holders: Vec<Holder> =
        (0..2).flat_map(|side| (0..cards[side]).map(move |_| side)).map(holder).collect();
    let counts = apportion(things, &holders)?;
    let (first, second) = counts.split_at(cards[0] as usize);
    Some([first, second].map(|counts| counts.iter().copied().max().unwrap_or(0)))
}

/// Where a stage of a pipeline over two types lies.
struct Stage {
    side: usize,
    is_first: bool,
    is_last: bool,
    /// Beside a stage of the other type.
    is_border: bool,
    /// Micro-batches that it keeps at once.
    in_flight: u32,
}

impl Stage {
    /// Takes as long for as many layers.
    fn is_like(&self, other: &Stage) -> bool {
        let kind = |stage: &Stage| (stage.side, stage.is_first, stage.is_last, stage.is_border);
        kind(self) == kind(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Catalogue, Chip};
    use crate::request::Request;

    const REQUEST: &str = "model = \"ling-lite\"\ntokens = 1e9\nsequence = 2048\nbatch_sequences = 256\n\
        currency = \"USD\"\nassume = { skew = 1.0 }\n[[chips]]\nname = \"H100\"\n";

    /// Calls `look` with the layouts over both chips, and each chip's own.
    fn layouts(chips: [&Chip; 2], look: impl Fn(&[Layout], [&[Layout]; 2])) {
        let request = Request::parse(REQUEST).unwrap();
        let model = request.model().unwrap();
        let drawers = chips.map(|chip| Drawer { request: &request, model: &model, chip, profile: None });
        let pieces = [spreads(&drawers[0]), spreads(&drawers[1])];
        let pair = Pair { drawers: [&drawers[0], &drawers[1]], pieces: [&pieces[0], &pieces[1]] };
        let own = [drawers[0].all(), drawers[1].all()];
        look(&pair.all(), [&own[0], &own[1]]);
    }

    fn h100() -> Chip {
        let chip = Catalogue::built_in().unwrap().chip("H100").unwrap().clone();
        // One link everywhere, so that it does not matter whom a card sits beside.
        Chip { network_bytes_s: chip.link_bytes_s, ..chip }
    }

    fn usable(chip: &Chip) -> f64 {
        chip.memory_bytes * USABLE_MEMORY
    }

    /// The one of the same shape, and that of one stage.
    fn alike<'a>(own: &'a [Layout], pair: &Layout) -> Option<[&'a Layout; 2]> {
        let find = |stages| {
            let shape = (stages, pair.expert_cards, pair.recompute);
            own.iter().find(|own| (own.stages, own.expert_cards, own.recompute) == shape)
        };
        Some([find(pair.stages)?, find(1)?])
    }

    #[test]
    fn two_types_of_the_same_figures_do_as_well_as_one() {
        let chip = h100();
        layouts([&chip, &chip], |pairs, [own, _]| {
            let mut compared = 0;
            for pair in pairs {
                let Some([own, one]) = alike(own, pair) else { continue };
                // Layers may differ from stage to stage here, so it may be faster.
                let is_fast = pair.tokens_s >= own.tokens_s * (1.0 - 1e-9);
                assert!(is_fast || own.memory_bytes() > usable(&chip), "{pair:?} {own:?}");
                let work = f64::from(pair.stages) * one.tokens_s;
                assert!(pair.tokens_s <= work * (1.0 + 1e-9), "no work is lost: {pair:?} {one:?}");
                if pair.stages == 1 {
                    assert!((pair.exchange_s / own.exchange_s - 1.0).abs() < 1e-9);
                }
                compared += 1;
            }
            assert!(compared > 100, "{compared}");
        });
    }

    #[test]
    fn a_slower_type_is_given_less_and_no_card_more_than_it_can_hold() {
        let fast = h100();
        let slow = Chip {
            peak_flops: [("bf16".to_owned(), fast.peak() / 2.0)].into_iter().collect(),
            bandwidth_bytes_s: fast.bandwidth_bytes_s / 2.0,
            ..fast.clone()
        };
        layouts([&fast, &slow], |pairs, [quick, slow]| {
            let mut gained = 0;
            for pair in pairs {
                let Some(([_, quick], [slow, slow_one])) = alike(quick, pair).zip(alike(slow, pair)) else {
                    continue;
                };
                let other = pair.second.as_ref().unwrap();
                let lanes = f64::from(pair.expert_cards);
                let work = (f64::from(pair.cards) * quick.tokens_s
                    + f64::from(other.cards) * slow_one.tokens_s)
                    / lanes;
                assert!(pair.tokens_s <= work * (1.0 + 1e-9), "no work is lost: {pair:?}");
                let is_fast = pair.tokens_s >= slow.tokens_s * (1.0 - 1e-9);
                assert!(is_fast || slow.memory_bytes() > usable(&fast), "{pair:?} {slow:?}");
                gained += usize::from(pair.tokens_s > 1.2 * slow.tokens_s);
                assert!(pair.memory_bytes().max(total(&other.memory)) <= usable(&fast), "{pair:?}");
                assert!((0.0..1.0).contains(&other.share), "{pair:?}");
            }
            assert!(gained > 50, "{gained}");
        });
    }
}
