//! Ctrl-C: the run saves, says how to go on, and loses nothing.

use super::program::{Place, hashes};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

const RUN: [&str; 6] = ["train", "run.toml", "--set", "stop.steps=300", "--set", "checkpoint.every=0"];

#[test]
fn an_interrupted_run_saves_says_how_to_go_on_and_ends_with_the_same_bits() {
    let place = Place::new();
    place.succeed(&[&RUN[..], &["--set", "folder=undisturbed"]].concat());

    let child = place.command(&RUN).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = place.path("out/run/run.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("to resume: ") && said.contains("--set 'checkpoint.every=0'"), "{said}");
    assert!(output.stdout.is_empty());

    place.succeed(&RUN);
    let last = "checkpoints/step-00000300";
    let same = hashes(&place.path("out/run").join(last)) == hashes(&place.path("undisturbed").join(last));
    assert!(same, "an interrupted run ends with other bits");
}
