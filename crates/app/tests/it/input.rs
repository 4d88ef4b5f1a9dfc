//! Wrong input is exit code 2, says so before anything else, and leaves nothing behind.

use super::program::{Place, contents};

const PLANNED: &str = include_str!("../plans/example.json");

#[track_caller]
fn refused(place: &Place, args: &[&str], words: &[&str]) {
    let before = contents(&place.path(""));
    let ended = place.run(args);
    assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{args:?}: {}", ended.err);
    assert!(ended.err.starts_with("error: "), "something was said before: {}", ended.err);
    assert!(words.iter().all(|word| ended.err.contains(word)), "{args:?}: {words:?} in {}", ended.err);
    assert!(before == contents(&place.path("")), "{args:?} wrote something");
}

#[test]
fn numbers_out_of_range_are_refused_by_every_command() {
    let place = Place::new();
    for args in [
        &["model", "toy", "--sequence", "0"][..],
        &["bench", "train", "--steps", "0"],
        &["bench", "train", "--threads", "-1"],
        &["bench", "fleet", "--rounds", "0"],
        &["bench", "fleet", "--steps", "0"],
        &["bench", "fleet", "--micros", "0"],
        &["bench", "ops", "--steps", "0"],
        &["bench", "predict", "--steps", "0"],
        &["bench", "plan", "--rounds", "0"],
        &["align", "--steps", "1"],
        &["align", "--seeds", "0"],
        &["ledger", "run.toml", "--loss", "0"],
        &["ledger", "run.toml", "--loss", "-1"],
        &["ledger", "run.toml", "--loss", "inf"],
    ] {
        let number = args.last().unwrap();
        refused(&place, args, &[number]);
    }
}

#[test]
fn names_of_nothing_are_refused_by_every_command() {
    let place = Place::new();
    for args in [
        &["train", "absent"][..],
        &["train", "run.toml", "--profile", "absent"],
        &["train", "run.toml", "--price-as", "absent"],
        &["train", "run.toml", "--set", "absent=1"],
        &["train", "run.toml", "--device", "cpu@absent"],
        &["model", "absent"],
        &["model", "absent.toml"],
        &["merge", "absent", "--out", "new"],
        &["ledger", "absent"],
        &["align", "--run", "absent"],
        &["align", "--like", "absent"],
        &["align", "--level", "absent"],
        &["bench", "train", "--model", "absent"],
        &["bench", "fleet", "--device", "cpu@absent"],
        &["bench", "predict", "--profile", "absent"],
        &["bench", "plan", "--model", "absent"],
        &["plan", "absent"],
        &["plan", "absent.json"],
    ] {
        refused(&place, args, &["absent"]);
    }
}

#[test]
fn an_option_that_would_change_nothing_is_refused() {
    let place = Place::new();
    place.write("answer.json", PLANNED);
    refused(&place, &["model", "toy", "--set", "model.layers=3"], &["model.layers=3", "RUN.toml"]);
    refused(&place, &["model", "--set", "model.layers=3"], &["model.layers=3", "RUN.toml"]);
    for flag in [
        &["--budget", "5"][..],
        &["--deadline-hours", "5"],
        &["--objective", "time"],
        &["--without", "nvidia"],
        &["--max-share", "nvidia=0.5"],
        &["--skew-of", "out/run"],
        &["--profile", "H100=profile.toml"],
        &["--chips", "chips.toml"],
    ] {
        refused(&place, &[&["plan", "answer.json"], flag].concat(), &[flag[0], "answer.json"]);
    }
    for flags in [["--level", "ops"], ["--steps", "9"], ["--reference", "cpu"], ["--seed", "2"]] {
        refused(&place, &[&["align", "--run", "out/run"], &flags[..]].concat(), &["--run", flags[0]]);
    }
    for flags in [["--level", "ops"], ["--steps", "9"], ["--seeds", "2"], ["--out", "new"]] {
        refused(&place, &[&["align", "--self-test"], &flags[..]].concat(), &["--self-test", flags[0]]);
    }
    for flags in [["--level", "ops"], ["--steps", "9"], ["--run", "out/run"]] {
        refused(&place, &[&["align", "--like", "toy"], &flags[..]].concat(), &["--like", flags[0]]);
    }
    for flags in [["--level", "ops"], ["--steps", "9"], ["--seeds", "2"], ["--like", "toy"]] {
        refused(&place, &[&["align", "--quick"], &flags[..]].concat(), &["--quick", flags[0]]);
    }
}

#[test]
fn checkpoints_that_cannot_be_merged_are_refused() {
    let place = Place::new();
    place.succeed(&["train", "run.toml", "--set", "checkpoint.keep=0"]);
    place.succeed(&["train", "run.toml", "--set", "folder=other", "--set", "model.expert_width=10"]);
    let step = |run: &str, step: u32| format!("{run}/checkpoints/step-{step:0>8}");
    let [first, second, other] = [step("out/run", 4), step("out/run", 8), step("other", 12)];
    let merge = |checkpoints: [&str; 2], words: &[&str]| {
        refused(&place, &["merge", checkpoints[0], checkpoints[1], "--out", "new"], words);
    };
    merge([&second, &first], &["does not come after"]);
    merge([&first, &first], &["does not come after"]);
    merge([&first, &other], &["another model", "model.expert_width"]);
    refused(&place, &["merge", &first, &second, "--out", "out"], &["out exists already"]);
}
