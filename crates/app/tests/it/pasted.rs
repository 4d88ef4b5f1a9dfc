//! What a newcomer pastes, mistypes or points at the wrong thing.

use super::program::Place;
use std::fs;

#[test]
fn a_folder_that_holds_a_model_of_somewhere_else_is_not_trained_in() {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    place.succeed(&["merge", "out/run/checkpoints/step-00000012", "--out", "merged"]);
    place.succeed(&["export", "out/run", "--format", "glm4_moe", "--out", "exported"]);
    for folder in ["merged", "exported"] {
        let before = super::program::contents(&place.path(folder));
        let said = place.fail(2, &["train", "run.toml", "--set", &format!("folder={folder}")]);
        assert!(said.contains("not the folder of a run"), "{said}");
        assert_eq!(super::program::contents(&place.path(folder)), before, "{folder}");
    }
}

#[test]
fn printed_commands_can_be_pasted_whatever_the_names() {
    let place = Place::new();
    let text = fs::read_to_string(place.path("run.toml")).unwrap();
    place.write("it's a run.toml", &text);
    let said = place.succeed(&["train", "it's a run.toml", "--set", "folder=out/a b"]);
    let command = said.lines().find_map(|line| line.trim().split_once(" eval ")).unwrap().1.to_owned();
    let program = env!("CARGO_BIN_EXE_lingot");
    let mut shell = std::process::Command::new("sh");
    shell.current_dir(place.path("")).args(["-c", &format!("{program} eval {command}")]);
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn negative_numbers_are_refused_by_what_they_are() {
    let place = Place::new();
    for args in [
        &["generate", "out/run", "--prompt", "a", "--tokens", "-3"][..],
        &["generate", "out/run", "--prompt", "a", "--seed", "-1"],
        &["eval", "out/run", "--sequences", "-1"],
        &["bench", "train", "--threads", "-1"],
    ] {
        let said = place.run(args);
        assert_eq!(said.code, 2);
        assert!(said.err.contains("invalid value") && !said.err.contains("-- -"), "{args:?}: {}", said.err);
    }
}

#[test]
fn more_threads_than_any_machine_has_are_refused_before_they_start() {
    let place = Place::new();
    let said = place.fail(2, &["train", "run.toml", "--set", "device.threads=100000"]);
    assert!(said.contains("100000") && said.contains("1024"), "{said}");
    for args in [&["eval", "out/run"][..], &["bench", "train"], &["bench", "ops"], &["align", "--self-test"]]
    {
        let said = place.run(&[args, &["--threads", "100000"]].concat());
        assert!(said.code == 2 && said.err.contains("1024"), "{args:?}: {}", said.err);
    }
}

#[test]
fn options_that_would_change_nothing_are_refused() {
    let place = Place::new();
    for option in [
        &["--vocabulary", "300"][..],
        &["--tokenizer", "none.json"],
        &["--field", "body"],
        &["--split", "x"],
        &["--special-tokens"],
        &["--validation", "0.1"],
        &["--seed", "5"],
    ] {
        let said = place.fail(2, &[&["data", "run.toml"], option].concat());
        assert!(said.contains(option[0]) && said.contains("--set"), "{said}");
    }
    for what in ["--data", "--choices"] {
        let said = place.run(&["eval", "out/run", what, "text.txt", "--sequences", "3"]);
        assert!(said.code == 2 && said.err.contains("--sequences"), "{what}: {}", said.err);
    }
    let said = place.fail(2, &["data", "run.toml", "--out", "shards", "--set", "seed=3"]);
    assert!(said.contains("--set seed=3") && !place.path("shards").exists(), "{said}");
}

#[test]
fn a_result_that_could_not_be_written_is_told_before_the_measurement() {
    let place = Place::new();
    let said = place.fail(1, &["bench", "ops", "--out", "no/such/profile.toml"]);
    assert!(said.contains("no/such"), "{said}");
}

#[test]
fn a_name_is_not_a_path() {
    let place = Place::new();
    for name in ["..", "a/b", "/"] {
        let said = place.fail(2, &["train", "run.toml", "--set", &format!("name=\"{name}\"")]);
        assert!(said.contains("is not a file name"), "{said}");
    }
}
