//! Bad input: a clear error, its exit code, and nothing half-written.

use super::program::{Place, contents};
use std::fs;
use std::path::{Path, PathBuf};

/// Checks that a run is refused and leaves not even a folder.
#[track_caller]
fn refused(place: &Place, code: i32, set: &[&str], words: &[&str]) {
    let mut args = vec!["train", "run.toml"];
    for set in set {
        args.extend(["--set", set]);
    }
    let said = place.fail(code, &args);
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    assert!(!place.path("out").exists() || contents(&place.path("out")).is_empty(), "something was written");
}

#[test]
fn a_corpus_that_is_missing_empty_or_not_text_is_refused() {
    let place = Place::new();
    refused(&place, 2, &["data.corpora.0.path=missing.txt"], &["missing.txt"]);
    place.write("empty.txt", "");
    refused(&place, 2, &["data.corpora.0.path=empty.txt"], &["empty.txt"]);
    place.write("blank.txt", " \n\n");
    refused(&place, 2, &["data.corpora.0.path=blank.txt"], &["blank.txt"]);
    fs::write(place.path("latin.txt"), b"caf\xe9 au lait\n").unwrap();
    refused(&place, 2, &["data.corpora.0.path=latin.txt"], &["latin.txt", "UTF-8"]);
    refused(&place, 2, &["data.corpora=[]"], &["data.corpora is empty"]);
}

#[test]
fn a_run_that_cannot_be_is_refused_with_both_numbers() {
    let place = Place::new();
    refused(&place, 2, &["model.heads=3", "model.kv_heads=2"], &["3", "2", "model.kv_heads"]);
    refused(&place, 2, &["model.choices=5"], &["model.choices (5)", "(4)"]);
    refused(&place, 2, &["optimizer.rte=1"], &["unknown key `rte`", "did you mean `rate`?"]);
    refused(&place, 2, &["model.preset=ling-light"], &["ling-light", "did you mean `ling-lite`?"]);
    refused(&place, 2, &["batch.micro=3"], &["batch.sequences (4)", "batch.micro (3)"]);
    refused(&place, 3, &["device.name=abacus"], &["abacus"]);
    let huge = ["model.width=65536", "model.layers=4000", "model.experts=4096", "model.expert_width=65536"];
    refused(&place, 3, &huge, &["weights, gradients and optimizer state"]);
    assert!(place.fail(2, &["train", "absent.toml"]).contains("absent.toml"));
    place.write("broken.toml", "[model\n");
    assert!(place.fail(2, &["train", "broken.toml"]).contains("broken.toml"));
}

#[test]
fn a_tokenizer_may_be_smaller_than_the_vocabulary_but_not_larger() {
    let place = Place::new();
    place.succeed(&["data", "text.txt", "--out", "shards", "--vocabulary", "280"]);
    let tokenizer = ["data.tokenizer=shards/tokenizer.json", "model.vocabulary=270"];
    refused(&place, 2, &tokenizer, &["280", "270"]);
    place.succeed(&["train", "run.toml", "--set", tokenizer[0], "--set", "stop.steps=1"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::new();
    place.write("file", "");
    let said = place.fail(2, &["train", "run.toml", "--set", "folder=file/run"]);
    assert!(said.contains("file/run"), "{said}");
    assert!(place.fail(1, &["generate", "text.txt", "--prompt", "a"]).contains("text.txt"));
    assert!(place.fail(2, &["generate", "absent", "--prompt", "a"]).contains("there is no absent"));
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    let lock = fs::OpenOptions::new().write(true).open(place.path("out/run/lock")).unwrap();
    lock.lock().unwrap();
    let before = contents(&place.path("out/run/checkpoints"));
    let said = place.fail(1, &["train", "run.toml", "--set", "stop.steps=20"]);
    assert!(said.contains("is already running in out/run"), "{said}");
    assert!(before == contents(&place.path("out/run/checkpoints")));
}

#[test]
fn text_that_changed_since_it_was_prepared_is_refused() {
    let place = Place::new();
    place.succeed(&["data", "run.toml"]);
    let text = fs::read_to_string(place.path("text.txt")).unwrap();
    place.write("text.txt", &text.replace("cat", "cow"));
    let said = place.fail(2, &["train", "run.toml"]);
    assert!(said.contains("changed since the shards"), "{said}");
}

/// A trained run, and the path of its newest checkpoint.
fn trained() -> (Place, PathBuf) {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    let newest = place.path("out/run/checkpoints/step-00000012");
    (place, newest)
}

/// Commands that only read a damaged checkpoint refuse it; the run skips it with a warning.
fn is_found_damaged(place: &Place, word: &str) {
    for command in [&["generate", "out/run", "--prompt", "a"][..], &["eval", "out/run"]] {
        let said = place.fail(1, command);
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    let exported = place.fail(1, &["export", "out/run", "--out", "exported"]);
    assert!(exported.contains(word) && !place.path("exported").exists(), "{exported}");
    let ended = place.run(&["train", "run.toml"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("warning:") && ended.err.contains("resuming at step 8"), "{}", ended.err);
}

fn change(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_truncated_checkpoint_is_found_out() {
    let (place, newest) = trained();
    change(&newest.join("weights.safetensors"), |bytes| bytes.truncate(bytes.len() / 2));
    is_found_damaged(&place, "weights.safetensors");
}

#[test]
fn a_flipped_bit_is_found_out() {
    let (place, newest) = trained();
    change(&newest.join("weights.safetensors"), |bytes| {
        let middle = bytes.len() * 3 / 4;
        bytes[middle] ^= 0x10;
    });
    is_found_damaged(&place, "is damaged: its BLAKE3 is");
}

#[test]
fn a_checkpoint_of_another_model_or_seed_is_refused_and_kept() {
    let (place, _) = trained();
    let before = contents(&place.path("out/run/checkpoints"));
    let said = place.fail(2, &["train", "run.toml", "--set", "model.expert_width=10"]);
    assert!(said.contains("model.expert_width is 8, the run says 10"), "{said}");
    let said = place.fail(2, &["train", "run.toml", "--set", "seed=4"]);
    assert!(said.contains("seed = 3, and now 4"), "{said}");
    assert!(before == contents(&place.path("out/run/checkpoints")));
}

#[test]
fn a_checkpoint_of_a_newer_format_is_refused_and_kept() {
    let (place, newest) = trained();
    change(&newest.join("manifest.json"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replacen("\"format\": 1", "\"format\": 9", 1).into_bytes();
    });
    let before = contents(&place.path("out/run/checkpoints"));
    for command in [&["generate", "out/run", "--prompt", "a"][..], &["train", "run.toml"]] {
        let said = place.fail(1, command);
        assert!(said.contains("is of format 9, this Lingot reads up to format 1"), "{said}");
    }
    assert!(before == contents(&place.path("out/run/checkpoints")));
}

#[test]
fn devices_that_cannot_be_a_fleet_are_refused_with_the_reason() {
    let place = Place::new();
    let fails = |code: i32, devices: &str, words: &[&str]| {
        let said = place.fail(code, &["train", "run.toml", "--device", devices, "--set", "batch.micro=1"]);
        for word in words {
            assert!(said.contains(word), "{devices}: `{word}` is not in: {said}");
        }
        assert!(said.contains("hint:"), "{devices}: {said}");
        assert!(!place.path("out/run/checkpoints").exists(), "something was trained");
    };
    fails(3, "cpu,abacus", &["abacus"]);
    fails(2, "cpu,cpu:0", &["names one accelerator twice", "entry 1", "entry 2"]);
    fails(2, "cpu,cpu@1.5", &["1.5 is not above 0"]);
    let small = "throttled(cpu, memory=64KiB)";
    fails(3, &format!("{small},{small}"), &["too few", "65536", "which has"]);
}

#[test]
fn when_all_devices_are_lost_the_exit_code_says_so_and_the_same_command_goes_on() {
    let place = Place::new();
    let frail = "throttled(cpu, dies=4000),throttled(cpu, dies=4000)";
    let args = ["train", "run.toml", "--device", frail, "--set", "batch.micro=1", "--set", "stop.steps=200"];
    let said = place.fail(3, &args);
    assert!(said.contains("all devices are lost") && said.contains("run the same command again"), "{said}");
    let kept = || {
        let folders = fs::read_dir(place.path("out/run/checkpoints")).unwrap();
        folders.map(|found| found.unwrap().file_name().into_string().unwrap()).max().unwrap()
    };
    let first = kept();
    assert!(first.as_str() > "step-00000000", "{first}");
    place.fail(3, &args);
    assert!(kept() > first, "{} after {first}", kept());
}
