//! Every hint that names a command or a key is followed, and what it promises happens.

use super::program::{Place, contents};
use std::fs;

/// The `hint:` of a command that fails with this code.
#[track_caller]
fn hint(place: &Place, code: i32, args: &[&str]) -> String {
    place.fail(code, args).split_once("hint: ").unwrap().1.trim().to_owned()
}

/// The text between backquotes that follows some words.
#[track_caller]
fn quoted<'a>(hint: &'a str, words: &str) -> &'a str {
    let rest = hint.split_once(words).unwrap_or_else(|| panic!("`{words}` is not in: {hint}")).1;
    rest.split('`').nth(1).unwrap_or_else(|| panic!("nothing is quoted after `{words}`: {hint}"))
}

/// `train run.toml` with overrides.
fn train<'a>(set: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train", "run.toml", "--set", "stop.steps=2"];
    args.extend(set.iter().flat_map(|set| ["--set", set]));
    args
}

#[test]
fn a_misspelt_name_is_mended_by_its_hint() {
    let place = Place::new();
    let said = hint(&place, 2, &train(&["optimizer.rte=1e-3"]));
    place.succeed(&train(&[&format!("optimizer.{}=1e-3", quoted(&said, "did you mean"))]));
    let said = hint(&place, 2, &train(&["model.preset=toi"]));
    place.succeed(&train(&["folder=new", &format!("model.preset={}", quoted(&said, "did you mean"))]));
    let said = hint(&place, 2, &["model", "ling-light"]);
    place.succeed(&["model", said.strip_prefix("the presets are ").unwrap().split(", ").next().unwrap()]);
    let said = hint(&place, 2, &["train", "run.toml", "--price-as", "A1000"]);
    let chip = quoted(&said, "did you mean");
    place.succeed(&[&train(&["folder=priced"])[..], &["--price-as", chip]].concat());
}

#[test]
fn an_empty_list_of_corpora_is_filled_by_its_hint() {
    let place = Place::new();
    let said = hint(&place, 2, &train(&["data.corpora=[]"]));
    let set = said.strip_prefix("add corpora = ").unwrap();
    place.succeed(&train(&[&format!("data.corpora={set}")]));
}

#[test]
fn a_text_that_is_not_utf_8_is_converted_by_its_hint() {
    let place = Place::new();
    let text = fs::read(place.path("text.txt")).unwrap();
    fs::write(place.path("latin.txt"), [&text[..], b"caf\xe9 au lait\n"].concat()).unwrap();
    let said = hint(&place, 2, &train(&["data.corpora.0.path=latin.txt"]));
    let words: Vec<&str> = quoted(&said, "for example").split(' ').collect();
    let file = fs::File::open(place.path("latin.txt")).unwrap();
    let Ok(converted) = std::process::Command::new(words[0]).args(&words[1..]).stdin(file).output() else {
        return println!("skipped: {} is not installed", words[0]);
    };
    assert!(converted.status.success());
    fs::write(place.path("converted.txt"), converted.stdout).unwrap();
    place.succeed(&train(&["data.corpora.0.path=converted.txt"]));
}

#[test]
fn an_unknown_device_is_replaced_by_one_that_is_listed() {
    let place = Place::new();
    let said = hint(&place, 3, &train(&["device.name=abacus"]));
    assert!(said.contains("lingot devices"), "{said}");
    let listed = place.succeed(&["devices"]);
    let name = listed.split_whitespace().next().unwrap();
    place.succeed(&train(&[&format!("device.name={name}")]));
    let said = hint(&place, 2, &["train", "run.toml", "--device", "cpu@2"]);
    assert!(said.contains("cpu@0.5") && said.contains("throttled(cpu, speed=0.5, memory=4GiB, latency=20us"));
    for entry in ["cpu@0.5", "throttled(cpu, speed=0.5, memory=4GiB, latency=20us)"] {
        place.succeed(&[&train(&["batch.micro=1", "folder=weak"])[..], &["--device", entry]].concat());
        fs::remove_dir_all(place.path("weak")).unwrap();
    }
}

#[test]
fn a_model_that_is_too_large_is_replaced_by_a_preset() {
    let place = Place::new();
    let huge = ["model.width=65536", "model.layers=4000", "model.experts=4096", "model.expert_width=65536"];
    let said = hint(&place, 3, &train(&huge));
    assert!(said.contains("`lingot model`"), "{said}");
    let presets = place.succeed(&["model"]);
    let smallest = presets.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    place.write("small.toml", &fs::read_to_string(place.path("run.toml")).unwrap().replace("toy", smallest));
    place.succeed(&["train", "small.toml", "--set", "stop.steps=2"]);
}

#[test]
fn a_vocabulary_that_is_too_small_is_raised_as_its_hint_says() {
    let place = Place::new();
    place.succeed(&["data", "text.txt", "--out", "shards", "--vocabulary", "280"]);
    let tokenizer = "data.tokenizer=shards/tokenizer.json";
    let said = hint(&place, 2, &train(&[tokenizer, "model.vocabulary=270"]));
    let least = said.split_once("at least ").unwrap().1.split(',').next().unwrap();
    place.succeed(&train(&[tokenizer, &format!("{}={least}", quoted(&said, "set"))]));
}

#[test]
fn data_of_another_text_or_seed_is_made_again_as_its_hint_says() {
    let place = Place::new();
    place.succeed(&["data", "run.toml"]);
    let said = hint(&place, 2, &train(&["seed=4"]));
    assert_eq!(quoted(&said, "choose another with"), "data.cache");
    place.succeed(&train(&["seed=4", "data.cache=elsewhere", "folder=cached"]));
    place.write("text.txt", &fs::read_to_string(place.path("text.txt")).unwrap().replace("cat", "cow"));
    let said = hint(&place, 2, &train(&[]));
    assert!(said.contains("delete the folder"), "{said}");
    fs::remove_dir_all(place.path("out/run/data")).unwrap();
    place.succeed(&train(&[]));
}

#[test]
fn a_run_that_is_refused_or_done_goes_on_as_it_says() {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    let said = hint(&place, 2, &["train", "run.toml", "--set", "model.expert_width=10"]);
    let key = quoted(&said, "another");
    place.succeed(&train(&["model.expert_width=10", &format!("{key}=anew")]));
    let done = place.succeed(&["train", "run.toml"]);
    let raise = done.split_once("raise the limit: ").unwrap().1.lines().next().unwrap();
    let raised: Vec<&str> = raise.split(' ').collect();
    let report = place.json(&[&["train", "run.toml"], &raised[..]].concat());
    assert_eq!((&report["step"], &report["already_done"]), (&24.into(), &false.into()));
    for command in place.succeed(&train(&["folder=short"])).split_once("next:\n").unwrap().1.lines() {
        let words: Vec<&str> = command.trim().split(' ').skip(1).map(|word| word.trim_matches('"')).collect();
        if !command.contains("tensorboard --logdir") {
            place.succeed(&words);
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_as_its_hint_says() {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    let weights = place.path("out/run/checkpoints/step-00000012/weights.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let said = hint(&place, 1, &["generate", "out/run", "--prompt", "the"]);
    assert!(said.contains("use an older one"), "{said}");
    place.succeed(&["generate", "out/run/checkpoints/step-00000008", "--prompt", "the"]);
}

#[test]
fn what_is_missing_is_given_as_the_hint_says() {
    let place = Place::new();
    let said = hint(&place, 2, &["data", "text.txt"]);
    assert!(said.contains("--out shards"), "{said}");
    place.succeed(&["data", "text.txt", "--out", "shards", "--vocabulary", "280"]);
    place.succeed(&["train", "run.toml", "--set", "checkpoint.keep=0"]);
    let said = hint(&place, 2, &["generate", "out/run", "--prompt", ""]);
    assert!(said.contains("--prompt \"Once\""), "{said}");
    place.succeed(&["generate", "out/run", "--prompt", "Once"]);
    let steps = ["4", "8"].map(|step| format!("out/run/checkpoints/step-{step:0>8}"));
    let said = hint(&place, 2, &["merge", &steps[1], &steps[0], "--out", "merged"]);
    assert!(said.contains("from the oldest to the newest"), "{said}");
    place.succeed(&["merge", &steps[0], &steps[1], "--out", "merged"]);
    place.succeed(&["export", "out/run", "--format", "bailing_moe_v2", "--out", "exported"]);
    place.succeed(&["import", "exported", "--out", "imported"]);
    let said = hint(&place, 2, &["eval", "imported"]);
    assert!(said.contains("--data FILE"), "{said}");
    place.succeed(&["eval", "imported", "--data", "text.txt"]);
    let before = contents(&place.path("out"));
    let said = hint(&place, 2, &["ledger", "out/run", "--loss=-1"]);
    let loss = said.rsplit(' ').next().unwrap();
    place.succeed(&["ledger", "out/run", "--loss", loss]);
    assert!(before == contents(&place.path("out")), "reading changes nothing");
}
