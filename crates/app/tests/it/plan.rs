//! `lingot plan` and `lingot ledger`: their keys, their texts, and answers that contradict themselves.

use super::program::Place;
use lingot_plan::profile::{Between, Measured, Point, Profile, Subject};
use lingot_spec::cost::Widths;
use lingot_spec::presets::preset;
use lingot_spec::run::{Precision, Recompute};
use lingot_spec::step::{Batch, step};
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
fn an_answer_that_contradicts_itself_is_refused() {
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

/// A profile of a device on which every op takes a microsecond, whatever its size.
fn even_profile() -> String {
    let model = preset("toy").unwrap();
    let measured = [1_usize, 4, 16].into_iter().flat_map(|micro| {
        let batch = Batch {
            micro,
            micros: 2,
            sequence: 32,
            recompute: &[Recompute::Nothing],
            warming: false,
            widths: Widths::F32,
        };
        step(&model, &batch).ops.into_iter().map(|op| Measured {
            op: op.name.into(),
            form: op.form.into(),
            point: Point { sizes: op.sizes, seconds: 1e-6, range_s: [1e-6, 1e-6] },
            enqueue_s: 0.0,
            waits: false,
        })
    });
    let between = [Between { ops: 100.0, bytes: 1e6, seconds: 1e-5 }];
    let (device, precision) = ("cpu".into(), Precision::F32);
    let subject = Subject { device, threads: 1, precision, base_bytes: 1 << 20, links: None };
    Profile::fit(subject, measured.collect(), &between).to_toml()
}

#[test]
fn a_run_is_held_against_what_its_profile_and_its_shapes_promised() {
    let place = Place::new();
    place.write("profile.toml", &even_profile());
    let threads = ["--set", "device.threads=1"];
    place.succeed(
        &[&["train", "run.toml", "--profile", "profile.toml", "--price-as", "a100"], threads.as_slice()]
            .concat(),
    );
    place.succeed(&["train", "run.toml", "--set", "folder=out/second"]);
    let report = place.json(&["ledger", "out/run", "out/second"]);
    let promised = &report["runs"][0]["prediction"];
    for key in ["step_s", "seconds", "memory_bytes", "money"] {
        for side in ["predicted", "actual"] {
            assert!(
                promised[key][side].as_f64().is_some_and(|value| value > 0.0),
                "{key} {side}: {promised}"
            );
        }
    }
    assert_eq!(report["runs"][0]["currency"], "USD");
    let money =
        promised["money"]["predicted"].as_f64().unwrap() / promised["seconds"]["predicted"].as_f64().unwrap();
    let actual =
        promised["money"]["actual"].as_f64().unwrap() / promised["seconds"]["actual"].as_f64().unwrap();
    assert!((money / actual - 1.0).abs() < 1e-6, "both at the catalogue's price: {money} {actual}");
    let shapes = &report["runs"][1]["prediction"];
    assert_eq!(shapes["from"], "shapes alone");
    let [predicted, actual] =
        ["predicted", "actual"].map(|side| shapes["memory_bytes"][side].as_f64().unwrap());
    assert!(predicted <= actual && actual < 1.1 * predicted, "but for rounding up of blocks: {shapes}");
    assert_eq!(shapes["seconds"]["predicted"], Value::Null);
    let shown = place.succeed(&["ledger", "out/run"]);
    assert!(shown.contains("predicted by profile.toml") && shown.contains("money"), "{shown}");
    let said = place.fail(2, &["train", "run.toml", "--price-as", "A1000"]);
    assert!(said.contains("did you mean `A100`"), "{said}");
    let said = place.fail(2, &["train", "run.toml", "--set", "folder=out/third", "--profile", "absent.toml"]);
    assert!(said.contains("absent.toml"), "{said}");
}

/// A small model that one card of either chip holds.
const REQUEST: &str = r#"
tokens = 3072
sequence = 32
batch_sequences = 4
currency = "USD"
model = "toy"
[[chips]]
name = "H100"
available = 4
[[chips]]
name = "A100"
available = 8
[[chips]]
name = "MI300X"
available = 4
"#;

/// A price of MI300X, which has none in the catalogue.
const PRICES: &str = r#"
[[override]]
name = "MI300X"
price = { per_hour = 2.9, currency = "USD", source = "made up", date = "2026-11" }
"#;

const PLAN: [&str; 4] = ["plan", "request.toml", "--chips", "prices.toml"];

fn planned() -> Place {
    let place = Place::new();
    place.write("request.toml", REQUEST);
    place.write("prices.toml", PRICES);
    place
}

#[test]
fn a_request_is_answered_in_words_in_json_and_as_a_run_that_trains() {
    let place = planned();
    let answer = place.json(&[PLAN.as_slice(), &["--out", "planned"]].concat());
    assert_eq!(answer["best"]["cost"]["currency"], "USD");
    assert!(answer["best"]["cost"]["amount"].as_f64().unwrap() > 0.0);
    for chip in ["H100", "A100", "MI300X"] {
        let alone = answer["single_chip"][chip]["cost"]["amount"].as_f64().unwrap();
        assert!(alone >= answer["best"]["cost"]["amount"].as_f64().unwrap() * (1.0 - 1e-9), "{chip}");
    }
    assert!(!answer["pareto"].as_array().unwrap().is_empty() && answer["rejected"].is_array());
    let shown = place.succeed(&PLAN);
    assert!(shown.contains("the price of independence") && shown.contains("USD"), "{shown}");
    let page = std::fs::read_to_string(place.path("planned/report.html")).unwrap();
    assert!(page.contains("<svg"));
    let train = ["train", "planned/plan.toml", "--set", "data.corpora.0.path=text.txt"];
    let said = place.run(&train).err;
    assert!(said.contains("note") && said.contains("does not spread a replica over several"), "{said}");
    let ended = place.json(&train);
    assert_eq!(ended["step"], 24, "3072 tokens in steps of 4 x 32");
    assert!(ended["money"].as_f64().unwrap() > 0.0, "priced as planned");
}

#[test]
fn the_skew_of_the_experts_is_taken_from_a_run() {
    let place = planned();
    let said = place.fail(2, &[PLAN.as_slice(), &["--skew-of", "absent"]].concat());
    assert!(said.contains("absent"), "{said}");
    place.succeed(&["train", "run.toml"]);
    let shown = place.succeed(&[PLAN.as_slice(), &["--skew-of", "out/run"]].concat());
    let load = shown.split("the busiest expert has ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let load: f64 = load.parse().unwrap();
    assert!(load > 1.0 && load != 1.4, "measured, not assumed: {load}");
}

#[test]
fn flags_of_a_plan_override_its_request_and_no_vendor_is_used_against_its_exclusion() {
    let place = planned();
    let json = |args: &[&str]| place.json(&[PLAN.as_slice(), args].concat());
    let vendors = |args: &[&str]| -> Vec<String> {
        let answer = json(args);
        let fleet = answer["best"]["fleet"].as_array().unwrap().clone();
        fleet.iter().map(|chips| chips["vendor"].as_str().unwrap().to_owned()).collect()
    };
    assert!(vendors(&["--without", "nvidia"]).iter().all(|vendor| vendor == "amd"));
    assert!(vendors(&["--without", "amd"]).iter().all(|vendor| vendor == "nvidia"));
    let fast = json(&["--objective", "time"]);
    let cheap = json(&[]);
    let of = |answer: &Value, path: &str| answer.pointer(path).unwrap().as_f64().unwrap();
    assert!(of(&fast, "/best/seconds") <= of(&cheap, "/best/seconds"));
    assert!(of(&cheap, "/best/cost/amount") <= of(&fast, "/best/cost/amount"));
    let hours = of(&cheap, "/best/seconds") / 3600.0;
    let none = json(&["--budget", "1e-9"]);
    assert!(!none["feasible"].as_bool().unwrap(), "{none}");
    let change = none["binding"]["change"].as_str().unwrap();
    let amount = change.split(' ').find(|word| word.parse::<f64>().is_ok()).unwrap();
    assert_eq!(json(&["--budget", amount])["feasible"], true, "{change}");
    let kept = json(&["--deadline-hours", &format!("{}", hours * 1.001)]);
    assert!(of(&kept, "/best/seconds") <= hours * 1.001 * 3600.0);
    for (args, words) in [
        (vec!["--without", "nvida"], ["nvida", "did you mean `nvidia`"]),
        (vec!["--max-share", "nvidia=2"], ["2", "at most 1"]),
        (vec!["--max-share", "nvidia"], ["no `=`", "NAME=VALUE"]),
        (vec!["--objective", "fame"], ["fame", "money or time"]),
        (vec!["--budget", "NaN"], ["NaN", "above 0"]),
        (vec!["--deadline-hours=-2"], ["-2", "above 0"]),
        (vec!["--profile", "H1=x.toml"], ["H1", "[[chips]]"]),
    ] {
        let said = place.fail(2, &[PLAN.as_slice(), args.as_slice()].concat());
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    }
}
