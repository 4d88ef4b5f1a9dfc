//! The Ling report's own case: what its prices and efficiencies say, computed from shapes and table.

use lingot_plan::{Catalogue, Request, plan};
use std::collections::BTreeMap;

const PAPER: &str = include_str!("../../../../plans/ling-paper.toml");

fn money_of(text: &str, chip: &str) -> f64 {
    let request = Request::parse(text).unwrap();
    let answer = plan(&request, &Catalogue::built_in().unwrap(), &BTreeMap::new()).unwrap();
    answer.single_chip[chip].cost.amount
}

#[test]
fn ling_plus_costs_on_d_and_on_a_what_the_report_says() {
    assert!((money_of(PAPER, "D") / 6.35e6 - 1.0).abs() < 0.01);
    assert!((money_of(PAPER, "A") / 5.08e6 - 1.0).abs() < 0.01);
}

#[test]
fn the_best_fleet_is_a_fifth_below_d_alone() {
    let request = Request::parse(PAPER).unwrap();
    let answer = plan(&request, &Catalogue::built_in().unwrap(), &BTreeMap::new()).unwrap();
    let best = answer.best.unwrap().cost;
    assert_eq!(best.currency, "RMB");
    let saving = 1.0 - best.amount / answer.single_chip["D"].cost.amount;
    assert!((saving - 0.20).abs() < 0.005, "{saving}");
}

#[test]
fn at_equal_efficiency_a_saves_what_the_prices_per_peak_say() {
    let equal = PAPER.replace("utilisation = 0.21", "utilisation = 0.179");
    let saving = 1.0 - money_of(&equal, "A") / money_of(&equal, "D");
    assert!((saving - (1.0 - (7.0 / 370.0) / (27.5 / 989.0))).abs() < 1e-3, "{saving}");
    assert!((saving - 0.32).abs() < 0.005, "{saving}");
}
