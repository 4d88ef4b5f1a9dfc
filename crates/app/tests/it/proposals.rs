//! What a run is proposed is said, and stays when the run goes on.

use super::program::Place;
use serde_json::Value;
use std::fs;

/// The resolved text in the newest checkpoint.
fn resolved(place: &Place) -> String {
    let mut checkpoints: Vec<_> = fs::read_dir(place.path("out/open/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    checkpoints.sort();
    let manifest = fs::read(checkpoints.pop().unwrap().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let run = manifest.get("run").or_else(|| manifest["head"].get("run")).unwrap();
    run.as_str().unwrap().to_owned()
}

fn line<'t>(text: &'t str, key: &str) -> &'t str {
    text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {text}"))
}

#[test]
fn a_proposal_is_said_with_its_reason_and_kept_when_the_run_goes_on() {
    let place = Place::new();
    let run = fs::read_to_string(place.path("run.toml")).unwrap();
    place.write("open.toml", &run.replace("sequences = 4\nmicro = 2", "micro = 2"));
    let set = |steps: &str| place.run(&["train", "open.toml", "--set", &format!("stop.steps={steps}")]);
    let first = set("6");
    assert_eq!(first.code, 0, "{}", first.err);
    for key in ["batch.sequences", "optimizer.rate"] {
        assert!(first.err.contains(&format!("proposed {key} = ")), "{}", first.err);
    }
    assert!(first.err.contains("because that is Ling's fit for"), "{}", first.err);
    let before = resolved(&place);
    let second = set("200");
    assert_eq!(second.code, 0, "{}", second.err);
    let after = resolved(&place);
    for key in ["sequences = ", "rate = "] {
        assert_eq!(line(&before, key), line(&after, key));
    }
    assert!(second.err.contains("proposed batch.sequences = "), "{}", second.err);
    // What is written down counts.
    let third =
        place.run(&["train", "open.toml", "--set", "stop.steps=201", "--set", "optimizer.rate=0.001"]);
    assert_eq!(third.code, 0, "{}", third.err);
    assert!(!third.err.contains("proposed optimizer.rate"), "{}", third.err);
    assert_eq!(line(&resolved(&place), "rate = "), "rate = 0.001");
}
