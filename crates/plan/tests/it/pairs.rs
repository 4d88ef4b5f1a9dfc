//! Replicas that lie on two chip types: where they are the only way, what they hold, and that they keep the constraints.

use lingot_plan::answer::Answer;
use lingot_plan::{Catalogue, Request, plan};
use std::collections::BTreeMap;

/// Two chips, one twice as fast; so many cards of each, of so many GB.
fn answer(cards: [u32; 2], memory_gb: [f64; 2], more: &str) -> Answer {
    let chip = |name: &str, peak: f64, memory: f64| {
        format!(
            "[[chip]]\nname = \"{name}\"\nvendor = \"of {name}\"\nroute = \"none\"\npeak_flops = {{ bf16 = {peak:e} }}\n\
             memory_bytes = {:e}\nbandwidth_bytes_s = {:e}\nlink_bytes_s = 2e11\nnetwork_bytes_s = 5e10\n\
             cards_per_machine = 8\navailable = 8\nsource = \"made up\"\n\
             price = {{ per_hour = {}, currency = \"USD\", source = \"made up\", date = \"2026\" }}\n",
            memory * 1e9,
            peak / 150.0,
            peak / 2e14
        )
    };
    let rows = chip("fast", 4e14, memory_gb[0]) + &chip("slow", 2e14, memory_gb[1]);
    let request = format!(
        "model = \"ling-lite\"\ntokens = 1e9\nbatch_sequences = 64\nsequence = 2048\ncurrency = \"USD\"\n{more}\n\
         [[chips]]\nname = \"fast\"\navailable = {}\n[[chips]]\nname = \"slow\"\navailable = {}\n",
        cards[0], cards[1]
    );
    let catalogue = Catalogue::built_in().unwrap().with_user_rows(&rows).unwrap();
    plan(&Request::parse(&request).unwrap(), &catalogue, &BTreeMap::new()).unwrap()
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
