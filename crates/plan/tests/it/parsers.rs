//! Files that people write: broken ones are refused with words, never with a panic, and never become wrong
//! plans.

use lingot_plan::{Assumptions, Catalogue, ModelChoice, Request, plan};
use lingot_spec::event::{Event, ExpertLoad, Experts};
use std::collections::BTreeMap;

const REQUEST: &str = r#"
model = "toy"
tokens = 1e9
sequence = 128
batch_sequences = 64
currency = "USD"
[[chips]]
name = "H100"
available = 4
[[chips]]
name = "A100"
available = 4
"#;

const CHIP: &str = r#"
[[chip]]
name = "h100"
vendor = "mine"
route = "none"
peak_flops = { bf16 = 1e12 }
memory_bytes = 8e9
bandwidth_bytes_s = 1e10
link_bytes_s = 1e9
network_bytes_s = 1e9
cards_per_machine = 2
available = 7
source = "made up"
price = { per_hour = 0.5, currency = "USD", source = "made up", date = "2026-01" }
"#;

fn answer(request: &str) -> lingot_spec::Result<lingot_plan::answer::Answer> {
    plan(&Request::parse(request)?, &Catalogue::built_in()?, &BTreeMap::new())
}

/// What is said of a request in which one piece of text is another.
fn refused(from: &str, to: &str) -> String {
    assert!(REQUEST.contains(from), "{from}");
    answer(&REQUEST.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn a_mistake_in_a_request_is_answered_with_numbers_and_the_nearest_choice() {
    assert!(answer(REQUEST).unwrap().feasible);
    for (from, to, words) in [
        ("\"H100\"", "\"H1000\"", ["H1000", "did you mean `H100`"]),
        ("\"toy\"", "\"toi\"", ["toi", "did you mean `toy`"]),
        ("\"H100\"", "\"H20\"", ["`H20` has no price", "[[override]]"]),
        ("\"USD\"", "\"EUR\"", ["USD", "[[rates]]"]),
        ("\"toy\"", "{ layers = 2, widht = 64 }", ["widht", "width"]),
        ("\"toy\"", "7", ["7", "the name of a preset"]),
        ("1e9", "nan", ["NaN", "above 0"]),
        ("1e9", "-3", ["-3", "above 0"]),
        ("1e9", "inf", ["inf", "finite"]),
        ("currency", "constraints = { without = [\"nvida\"] }\ncurrency", ["nvida", "did you mean `nvidia`"]),
        ("currency", "constraints = { max_share = { nvidia = 1.5 } }\ncurrency", ["1.5", "at most 1"]),
        ("sequence = 128", "micro_sequences = 1000", ["1000", "batch_sequences (64)"]),
        ("sequence = 128", "micro_sequences = 6", ["6", "batch_sequences (64)"]),
    ] {
        let said = refused(from, to);
        assert!(words.iter().all(|word| said.contains(word)), "{to}: {said}");
    }
}

#[test]
fn a_micro_batch_holds_whole_groups_of_the_sequences_that_a_model_balances_over() {
    let mut model = lingot_spec::presets::preset("toy").unwrap();
    (model.router.balance_sequences, model.router.balance_loss) = (4, 0.01);
    let mut request = Request::parse(REQUEST).unwrap();
    request.model = ModelChoice::Spec(Box::new(model));
    let plan = |micro_sequences: u32| {
        let request = Request { micro_sequences, ..request.clone() };
        plan(&request, &Catalogue::built_in().unwrap(), &BTreeMap::new())
    };
    assert!(plan(8).unwrap().feasible);
    let refused = plan(2).unwrap_err();
    assert!(refused.problem.contains("micro_sequences (2)") && refused.hint.contains('4'), "{refused}");
}

#[test]
fn rates_that_contradict_each_other_are_refused_and_a_trading_spread_is_not() {
    let with = |second: &str| {
        let rates = "rates = [{ from = \"USD\", to = \"EUR\", rate = 0.9 }, ";
        answer(&REQUEST.replace("currency", &format!("{rates}{second}]\ncurrency")))
    };
    for second in ["from = \"USD\", to = \"EUR\", rate = 0.8", "from = \"EUR\", to = \"USD\", rate = 1.3"] {
        let said = with(&format!("{{ {second} }}")).unwrap_err().to_string();
        assert!(said.contains("contradict") && said.contains("keep one"), "{said}");
    }
    assert!(with("{ from = \"EUR\", to = \"USD\", rate = 1.105 }").unwrap().feasible);
    let said = with("{ from = \"EUR\", to = \"RMB\", rate = -1.0 }").unwrap_err().to_string();
    assert!(said.contains("rate is -1"), "{said}");
}

#[test]
fn what_no_fleet_can_do_names_what_binds_and_what_would_do() {
    let with = |line: &str| answer(&REQUEST.replace("currency", &format!("{line}\ncurrency"))).unwrap();
    for line in [
        "constraints = { deadline_hours = 1e-6 }",
        "constraints = { budget = { amount = 1e-6, currency = \"USD\" } }",
        "constraints = { max_share = { nvidia = 0.5 } }",
        "constraints = { without = [\"nvidia\"] }",
    ] {
        let answer = with(line);
        let binding = answer.binding.expect(line);
        assert!(!answer.feasible && answer.best.is_none());
        assert!(binding.constraint.chars().any(|c| c.is_ascii_digit()), "{}", binding.constraint);
    }
    let binding = answer(&REQUEST.replace("available = 4", "available = 0")).unwrap().binding.unwrap();
    assert!(binding.constraint.contains('0') && binding.change.contains("available"), "{binding:?}");
}

#[test]
fn the_change_that_is_named_is_enough_and_constraints_that_bind_together_are_named_together() {
    let with = |limits: &str| {
        let line = format!("constraints = {{ {limits} }}\ncurrency");
        answer(&REQUEST.replace("currency", &line)).unwrap()
    };
    let number_of = |change: &str| -> f64 {
        change.split(' ').find_map(|word| word.trim_end_matches(',').parse().ok()).expect(change)
    };
    let changed = |limits: &str| with(limits).binding.expect(limits).change;
    let hours = number_of(&changed("deadline_hours = 1e-6"));
    assert!(with(&format!("deadline_hours = {hours}")).feasible, "{hours} h");
    let amount = number_of(&changed("budget = { amount = 1e-6, currency = \"USD\" }"));
    assert!(with(&format!("budget = {{ amount = {amount}, currency = \"USD\" }}")).feasible, "{amount} USD");
    assert!(changed("without = [\"nvidia\"]").contains("allow nvidia"));
    // The fastest fleet is not the cheapest, so both limits bind though either alone could be kept.
    let both = format!(
        "deadline_hours = {}, budget = {{ amount = {}, currency = \"USD\" }}, max_share = {{ nvidia = 0.5 }}",
        hours * 0.5,
        amount * 0.5
    );
    let binding = with(&both).binding.unwrap();
    for word in ["the deadline is", "the budget is", "nvidia may do"] {
        assert!(binding.constraint.contains(word), "{}", binding.constraint);
    }
}

#[test]
fn the_skew_of_a_run_is_the_mean_of_its_later_half() {
    let experts = |step: u64, loads: &[f64]| {
        let layer = |(layer, &max_over_mean): (usize, &f64)| ExpertLoad {
            layer: layer as u32,
            max_over_mean,
            min_over_mean: 0.0,
            idle_share: 0.0,
            entropy: 1.0,
        };
        Event::Experts(Experts { step, layers: loads.iter().enumerate().map(layer).collect() })
    };
    let events = [
        experts(10, &[9.0, 9.0]),
        experts(20, &[9.0, 9.0]),
        experts(30, &[2.0, 1.0]),
        experts(40, &[1.5, 1.5]),
    ];
    assert_eq!(Assumptions::skew_of(&events), Some(1.5));
    assert_eq!(Assumptions::skew_of(&events[..1]), Some(9.0));
    assert_eq!(Assumptions::skew_of(&[]), None);
    // Where cards share experts, a busier expert makes the plan dearer; where each has all, it does not.
    let cost = |skew: f64, cards: u32| {
        let line = format!("assume = {{ skew = {skew} }}\ncurrency");
        let request =
            REQUEST.replace("currency", &line).replace("available = 4", &format!("available = {cards}"));
        answer(&request).unwrap().best.unwrap().cost.amount
    };
    assert_eq!(cost(1.0, 1), cost(3.0, 1));
}

#[test]
fn a_chip_of_ones_own_replaces_the_known_one_whatever_its_case() {
    let catalogue = Catalogue::built_in().unwrap();
    let count = catalogue.chips.len();
    let catalogue = catalogue.with_user_rows(CHIP).unwrap();
    assert_eq!(catalogue.chips.len(), count);
    assert_eq!(catalogue.chip("H100").unwrap().vendor, "mine");
}

#[test]
fn a_damaged_file_is_read_or_refused_but_never_ends_the_program() {
    let mut state = 7_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let pieces = ["nan", "-1", "0", "1e308", "inf", "\"", "[[chip]]", "=", "{", "4294967295", "\n", "é", ""];
    let (mut read, mut refused) = (0, 0);
    for _ in 0..4000 {
        let text = if below(2) == 0 { REQUEST } else { CHIP };
        let mut damaged: Vec<char> = text.chars().collect();
        for _ in 0..=below(3) {
            let from = below(damaged.len());
            let to = (from + below(6)).min(damaged.len());
            damaged.splice(from..to, pieces[below(pieces.len())].chars());
        }
        let damaged: String = damaged.into_iter().collect();
        let is_fine = match text == REQUEST {
            true => match answer(&damaged) {
                Ok(answer) => {
                    let sound =
                        |plan: &lingot_plan::answer::Plan| plan.seconds > 0.0 && plan.cost.amount > 0.0;
                    assert!(answer.best.iter().all(sound), "{damaged}");
                    true
                }
                Err(error) => {
                    assert!(!error.problem.is_empty());
                    false
                }
            },
            false => Catalogue::built_in().unwrap().with_user_rows(&damaged).is_ok(),
        };
        if is_fine { read += 1 } else { refused += 1 }
    }
    assert!(read > 50 && refused > 500, "{read} read, {refused} refused");
}
