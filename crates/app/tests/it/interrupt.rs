//! Ctrl-C: the run saves, prints the command that resumes it, and loses nothing.

use super::program::{Place, hashes};
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const RUN: [&str; 6] = ["train", "run.toml", "--set", "stop.steps=300", "--set", "checkpoint.every=0"];

/// What a run printed that was interrupted after its first step.
fn interrupted(place: &Place) -> Output {
    let child = place.command(&RUN).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = place.path("out/run/run.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // It fails if the run has finished.
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).output();
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupted_run_saves_says_how_to_go_on_and_ends_with_the_same_bits() {
    let place = Place::new();
    place.succeed(&[&RUN[..], &["--set", "folder=undisturbed"]].concat());

    // A run that finished before the signal came tests nothing, and starts again.
    let output = loop {
        let output = interrupted(&place);
        if output.status.code() != Some(0) {
            break output;
        }
        fs::remove_dir_all(place.path("out/run")).unwrap();
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("to resume: ") && said.contains("--set checkpoint.every=0"), "{said}");
    assert!(output.stdout.is_empty());

    place.succeed(&RUN);
    let last = "checkpoints/step-00000300";
    let same = hashes(&place.path("out/run").join(last)) == hashes(&place.path("undisturbed").join(last));
    assert!(same, "an interrupted run ends with other bits");
}
