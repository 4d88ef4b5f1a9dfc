//! Pairs against one type: two types of the same figures do as well as one, and a slower type is given less.

use super::{Pair, variants};
use crate::catalogue::{Catalogue, Chip};
use crate::floors::Pace;
use crate::layout::{Layout, Placer, Shape, USABLE_MEMORY};
use crate::request::Request;

const REQUEST: &str = "model = \"ling-lite\"\ntokens = 1e9\nsequence = 2048\nbatch_sequences = 256\n\
    currency = \"USD\"\nassume = { skew = 1.0 }\n[[chips]]\nname = \"H100\"\n";

/// Calls `look` with the layouts over both chips, and each chip's own.
fn layouts(chips: [&Chip; 2], look: impl Fn(&[Layout], [&[Layout]; 2])) {
    let request = Request::parse(REQUEST).unwrap();
    let model = request.model().unwrap();
    let placers = chips.map(|chip| Placer {
        request: &request,
        model: &model,
        chip,
        profile: None,
        pace: Pace::Likely,
    });
    let variants = [variants(&placers[0]), variants(&placers[1])];
    let pair = Pair { placers: [&placers[0], &placers[1]], variants: [&variants[0], &variants[1]] };
    let own = [placers[0].all(), placers[1].all()];
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
        let shape = Shape { stages, ..pair.shape };
        own.iter().find(|own| own.shape == shape)
    };
    Some([find(pair.shape.stages)?, find(1)?])
}

#[test]
fn two_types_of_the_same_figures_do_as_well_as_one() {
    let chip = h100();
    layouts([&chip, &chip], |pairs, [own, _]| {
        let mut compared = 0;
        for pair in pairs {
            let Some([own, one]) = alike(own, pair) else { continue };
            // Layers may differ from stage to stage here, so it may be faster.
            let is_fast = pair.tokens_per_s >= own.tokens_per_s * (1.0 - 1e-9);
            assert!(is_fast || own.memory.total() > usable(&chip), "{pair:?} {own:?}");
            let work = f64::from(pair.shape.stages) * one.tokens_per_s;
            assert!(pair.tokens_per_s <= work * (1.0 + 1e-9), "no work is lost: {pair:?} {one:?}");
            if pair.shape.stages == 1 {
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
            let lanes = f64::from(pair.shape.expert_cards);
            let work = (f64::from(pair.cards) * quick.tokens_per_s
                + f64::from(other.cards) * slow_one.tokens_per_s)
                / lanes;
            assert!(pair.tokens_per_s <= work * (1.0 + 1e-9), "no work is lost: {pair:?}");
            let is_fast = pair.tokens_per_s >= slow.tokens_per_s * (1.0 - 1e-9);
            assert!(is_fast || slow.memory.total() > usable(&fast), "{pair:?} {slow:?}");
            gained += usize::from(pair.tokens_per_s > 1.2 * slow.tokens_per_s);
            assert!(pair.memory.total().max(other.memory.total()) <= usable(&fast), "{pair:?}");
            assert!((0.0..1.0).contains(&other.share), "{pair:?}");
        }
        assert!(gained > 50, "{gained}");
    });
}
