//! Shares and advice: a fleet has no more replicas than a step has micro-batches, and advice names the least
//! that is enough.

use lingot_plan::answer::Answer;
use lingot_plan::{Catalogue, Request, plan};
use std::collections::BTreeMap;

/// A small model on two chips of two vendors, the second of them priced for this test.
fn answer(top: &str, chips: &[&str]) -> Answer {
    let price = "[[override]]\nname = \"MI300X\"\n\
                 price = { per_hour = 0.5, currency = \"USD\", source = \"made up\", date = \"2026\" }\n";
    let chips: String = chips.iter().map(|chip| format!("[[chips]]\n{chip}\n")).collect();
    let request =
        format!("model = \"toy\"\ntokens = 1e10\ncurrency = \"USD\"\nsequence = 256\n{top}\n{chips}");
    let catalogue = Catalogue::built_in().unwrap().with_user_rows(price).unwrap();
    plan(&Request::parse(&request).unwrap(), &catalogue, &BTreeMap::new()).unwrap()
}

#[test]
fn a_chip_of_given_utilisation_has_no_more_replicas_than_a_step_has_micro_batches() {
    for (batch, micro, most) in [(4, 1, 4), (12, 4, 3), (64, 1, 64)] {
        let top = format!(
            "batch_sequences = {batch}\nmicro_sequences = {micro}\nobjective = \"time\"\n\
             strategies = [\"every_step\"]"
        );
        let chip = "name = \"H100\"\navailable = 1000\nutilisation = 0.3";
        assert_eq!(answer(&top, &[chip]).best.unwrap().fleet[0].count, most, "{batch} by {micro}");
    }
}

#[test]
fn the_share_that_is_advised_is_enough_and_little_less_is_not() {
    let chips = ["name = \"H100\"\navailable = 64", "name = \"MI300X\"\navailable = 64\nutilisation = 0.3"];
    // Either vendor may do three tenths of the work, and the one whose cap is lifted first is also the
    // cheaper one: without its cap, the best fleet would have nothing else.
    let with = |share: f64| {
        let limits = format!("max_share = {{ amd = {share}, nvidia = 0.3 }}");
        answer(&format!("batch_sequences = 1024\nconstraints = {{ {limits} }}"), &chips)
    };
    let binding = with(0.3).binding.expect("the shares sum to less than 1");
    let number = |text: &str| text.split([' ', ',']).find_map(|word| word.parse::<f64>().ok());
    let advised = number(&binding.change).unwrap();
    assert!((0.7..0.705).contains(&advised), "{binding:?}");
    assert!(with(advised).feasible, "{binding:?}");
    assert!(!with(advised - 0.006).feasible, "{binding:?}");
}

#[test]
fn a_chip_without_cards_or_of_an_excluded_vendor_is_ruled_out_in_those_words() {
    let rejected = |top: &str, chip: &str| {
        let answer = answer(top, &[chip, "name = \"MI300X\""]);
        let row = answer.rejected.iter().find(|row| row.family == "H100 alone").unwrap();
        format!("{} ({} against {})", row.reason, row.found, row.limit)
    };
    assert_eq!(
        rejected("", "name = \"H100\"\navailable = 0"),
        "no card is available (1 card needed against 0 available)"
    );
    assert_eq!(
        rejected("constraints = { without = [\"nvidia\"] }", "name = \"H100\"\navailable = 5"),
        "its vendor nvidia is excluded (5 cards available against 0 allowed)"
    );
}

#[test]
fn a_model_that_needs_more_cards_is_answered_with_how_many_and_they_are_enough() {
    let with = |available: u64| {
        let request = format!(
            "model = \"ling-plus\"\ntokens = 1e12\ncurrency = \"USD\"\n\
             [[chips]]\nname = \"H100\"\navailable = {available}\n"
        );
        plan(&Request::parse(&request).unwrap(), &Catalogue::built_in().unwrap(), &BTreeMap::new()).unwrap()
    };
    let change = with(5).binding.unwrap().change;
    let needs = change.split(' ').find_map(|word| word.parse().ok()).expect(&change);
    assert!(with(needs).feasible && !with(needs - 1).feasible, "{change}");
}
