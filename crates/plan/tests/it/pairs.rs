//! Replicas that lie on two chip types: where they are the only way, what they hold, and that they keep the
//! constraints.

use crate::chips::{Chip, answered};
use lingot_plan::answer::Answer;

/// Two chips, one twice as fast and twice as expensive: the cards of each, and the GB of each.
fn answer(cards: [u32; 2], memory_gb: [f64; 2], more: &str) -> Answer {
    let chip = |name: &str, peak: f64, memory_gb: f64| Chip {
        name: name.into(),
        vendor: format!("of {name}"),
        memory_gb,
        peak,
        flops_per_byte: 150.0,
        network_bytes_per_s: 5e10,
        per_hour: peak / 2e14,
        available: 8,
    };
    let request = format!(
        "model = \"ling-lite\"\ntokens = 1e9\nbatch_sequences = 64\nsequence = 2048\n\
         currency = \"USD\"\n{more}\n\
         [[chips]]\nname = \"fast\"\navailable = {}\n[[chips]]\nname = \"slow\"\navailable = {}\n",
        cards[0], cards[1]
    );
    answered(&request, &[chip("fast", 4e14, memory_gb[0]), chip("slow", 2e14, memory_gb[1])])
}

#[test]
fn a_model_that_no_chip_alone_can_hold_is_laid_over_two() {
    let answer = answer([4, 4], [64.0, 64.0], "");
    let best = answer.best.as_ref().expect("eight cards hold it together");
    assert!(answer.single_chip.is_empty(), "{:?}", answer.single_chip.keys());
    assert_eq!(best.fleet.len(), 2, "{}", best.layout);
    assert!(best.fleet.iter().all(|part| part.count <= 4), "{}", best.name);
    assert!(
        best.layout.starts_with("replicas agree every step; ") && best.layout.contains(" with "),
        "{}",
        best.layout
    );
    assert_eq!(best.memory.len(), 2);
    for memory in &best.memory {
        let full: f64 = memory.parts.iter().map(|part| part.amount).sum();
        assert!(full <= 0.95 * memory.has_bytes * (1.0 + 1e-9), "{}: {full}", memory.chip);
    }
}

#[test]
fn a_cap_on_a_vendor_counts_its_part_of_a_replica() {
    let share = |vendor: &str, share: f64| {
        answer([4, 4], [64.0, 64.0], &format!("constraints = {{ max_share = {{ \"{vendor}\" = {share} }} }}"))
    };
    assert!(share("of fast", 0.9).feasible);
    assert!(!share("of fast", 0.01).feasible, "no replica has so little of it");
    assert!(!answer([4, 4], [64.0, 64.0], "constraints = { without = [\"of slow\"] }").feasible);
}

#[test]
fn another_type_and_more_cards_never_make_a_whole_plan_dearer() {
    let cost = |answer: Answer| answer.best.map_or(f64::INFINITY, |best| best.cost.amount);
    for cards in [[4, 0], [0, 8], [4, 4], [8, 2], [8, 8]] {
        for memory in [[64.0, 64.0], [96.0, 48.0], [141.0, 80.0]] {
            let now = cost(answer(cards, memory, ""));
            let more = cost(answer([cards[0] + 4, cards[1] + 4], memory, ""));
            // The searches stop when they are within a thousandth of the best.
            assert!(more <= now * 1.001, "{cards:?} {memory:?}: {now} became {more}");
        }
    }
}
