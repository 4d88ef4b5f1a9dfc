//! `lingot plan` and `lingot ledger`: their keys, their words, and answers that lie.

use super::program::Place;
use serde_json::{Value, json};

const EXAMPLE: &str = include_str!("../plans/example.json");

#[test]
fn an_answer_is_shown_drawn_and_given_back_unchanged() {
    let place = Place::new();
    place.write("answer.json", EXAMPLE);
    let shown = place.succeed(&["plan", "answer.json", "--out", "drawn"]);
    for word in [
        "5.02 M RMB",
        "1536 x beta + 256 x alpha",
        "+26.5 %",
        "without Vendor Two",
        "71.2 GB against 64.0 GB",
    ] {
        assert!(shown.contains(word), "`{word}` is not in: {shown}");
    }
    let page = std::fs::read_to_string(place.path("drawn/report.html")).unwrap();
    assert!(page.contains("&lt;beside&gt;") && !page.contains("<beside>"), "text is escaped");
    for outside in ["<script", "src=", "href=", "url(", "@import", "NaN"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let given: Value = serde_json::from_str(EXAMPLE).unwrap();
    let back = place.json(&["plan", "answer.json"]);
    assert_eq!(back, given);
    assert_eq!(back["best"]["cost"]["currency"], "RMB");
    assert!(back["single_chip"]["alpha"]["cost"]["amount"].is_number());
}

#[test]
fn that_no_fleet_fits_is_an_answer_with_a_reason() {
    let place = Place::new();
    let mut answer: Value = serde_json::from_str(EXAMPLE).unwrap();
    answer["feasible"] = false.into();
    answer["best"] = Value::Null;
    answer["binding"] = json!({ "constraint": "the budget is 1 M RMB, the cheapest plan costs 5.02 M RMB",
        "change": "raise the budget to 5.02 M RMB" });
    place.write("answer.json", &answer.to_string());
    let shown = place.succeed(&["plan", "answer.json", "--out", "drawn"]);
    assert!(shown.contains("no fleet does this: the budget is 1 M RMB"), "{shown}");
}

#[test]
fn an_answer_that_lies_is_refused() {
    let place = Place::new();
    let refused = |path: &[&str], value: Value, words: &[&str]| {
        let mut answer: Value = serde_json::from_str(EXAMPLE).unwrap();
        let at = path.iter().fold(&mut answer, |at, key| &mut at[*key]);
        *at = value;
        place.write("answer.json", &answer.to_string());
        let said = place.fail(2, &["plan", "answer.json", "--out", "drawn"]);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(!place.path("drawn").exists());
    };
    refused(&["best", "cost", "amount"], json!(-3.0), &["cost", "-3"]);
    refused(&["best", "cost", "currency"], json!("USD"), &["RMB and USD"]);
    refused(&["best"], Value::Null, &["feasible is true", "no best plan"]);
    refused(&["tokens"], json!("many"), &["answer.json", "many"]);
    assert!(place.fail(2, &["plan", "absent.json"]).contains("absent.json"));
}

#[test]
fn runs_are_compared_at_a_loss_that_both_reached() {
    let place = Place::new();
    let price = ["--set", "price.per_hour=3600", "--set", "price.currency=EUR"];
    place.succeed(&[&["train", "run.toml"], price.as_slice()].concat());
    place.succeed(&["train", "run.toml", "--set", "folder=out/second", "--set", "optimizer.rate=0.01"]);
    let report = place.json(&["ledger", "out/run", "out/second"]);
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        let parts: f64 =
            run["device_seconds"].as_object().unwrap().values().map(|part| part.as_f64().unwrap()).sum();
        assert!((parts - run["seconds"].as_f64().unwrap()).abs() < 1e-6, "{run}");
        assert!(run["to_common_loss"]["loss"].as_f64().unwrap() <= report["common_loss"].as_f64().unwrap());
    }
    assert!((runs[0]["money"].as_f64().unwrap() - runs[0]["seconds"].as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(runs[1]["money"], Value::Null, "no price, and yet seconds");
    let shown = place.succeed(&["ledger", "out/run", "out/second"]);
    assert!(shown.contains("EUR") && shown.contains("no price") && shown.contains("lost"), "{shown}");
    assert!(place.fail(2, &["ledger", "absent"]).contains("absent"));
    assert!(place.fail(2, &["ledger", "out/run", "--loss", "NaN"]).contains("NaN"));
}
