//! Large limits cost nothing until they are used, and a command stops when its reader is gone.

use super::program::Place;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Values that mean "no limit" to who types them.
const LARGE: [&str; 3] = ["1000000000", "4294967295", "18446744073709551615"];

/// A place with a trained run, and the same model imported with an end that it never draws.
fn with_models() -> Place {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    place.succeed(&["export", "out/run", "--format", "bailing_moe_v2", "--out", "hf"]);
    // What greedy choice draws repeats itself soon, so what is not among the first tokens never comes.
    let is_endless = |end: &u32| {
        let _ = std::fs::remove_dir_all(place.path("imported"));
        place.write("hf/generation_config.json", &format!("{{\"eos_token_id\": [{end}]}}"));
        place.succeed(&["import", "hf", "--out", "imported"]);
        let args = ["generate", "imported", "--prompt", "the", "--greedy", "--tokens", "5000"];
        let other = ["generate", "imported", "--prompt", "the cat", "--greedy", "--tokens", "5000"];
        [args, other].iter().all(|args| place.json(args)["ended"] == false)
    };
    (0..300).rev().find(is_endless).unwrap();
    place.write("q.jsonl", "{\"question\": \"the\", \"choices\": [\"cat\", \"dog\"], \"answer\": 0}\n");
    place.write("p.jsonl", "{\"prompt\": \"the cat\"}\n{\"prompt\": \"a dog\", \"tokens\": 3}\n");
    place
}

/// Runs a command in little memory. Either it succeeds, or it refuses the number by name as wrong input.
#[track_caller]
fn costs_nothing(place: &Place, args: &[&str], large: &str) {
    let begin = Instant::now();
    let program = env!("CARGO_BIN_EXE_lingot");
    let line = "ulimit -v 3000000; exec \"$0\" \"$@\"";
    let mut command = std::process::Command::new("bash");
    command.current_dir(place.path("")).args(["-c", line, program]).args(args).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(2) => assert!(said.contains(large) && said.contains("error: "), "{args:?}: {said}"),
        code => panic!("{args:?} ended with {code:?}: {said}"),
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "{args:?} took {:?}", begin.elapsed());
}

#[test]
fn flags_that_only_bound_cost_nothing_until_used() {
    let place = with_models();
    for large in LARGE {
        for (args, flag) in [
            (&["generate", "imported", "--prompts", "p.jsonl", "--tokens", "4"][..], "--batch"),
            (&["eval", "out/run"], "--sequences"),
            (&["eval", "imported", "--data", "text.txt"], "--sequence"),
            (&["eval", "imported", "--choices", "q.jsonl"], "--sequence"),
            (&["export", "out/run", "--format", "glm4_moe", "--out", large], "--shard"),
            (&["data", "text.txt", "--out", &format!("data-{large}")], "--vocabulary"),
            (&["ledger", "out/run"], "--loss"),
            (&["generate", "imported", "--prompt", "the", "--tokens", "2"], "--threads"),
        ] {
            costs_nothing(&place, &[args, &[flag, large]].concat(), large);
        }
    }
}

#[test]
fn keys_that_only_bound_cost_nothing_until_used() {
    let place = Place::new();
    for (number, large) in LARGE.into_iter().enumerate() {
        for key in [
            "stop.tokens",
            "stop.hours",
            "evaluation.every",
            "evaluation.sequences",
            "checkpoint.every",
            "checkpoint.keep",
            "schedule.warmup_steps",
            "model.router.warmup_steps",
            "optimizer.clip",
            "device.threads",
        ] {
            let (folder, set) = (format!("folder=out/{key}-{number}"), format!("{key}={large}"));
            costs_nothing(&place, &["train", "run.toml", "--set", &folder, "--set", &set], large);
        }
        for key in ["sync.deadline_s", "sync.period_s", "sync.every", "sync.penalty.warmup_meetings"] {
            let (folder, set) = (format!("folder=out/{key}-{number}"), format!("{key}={large}"));
            let fleet = ["--device", "cpu,cpu@0.9", "--set", "batch.micro=1"];
            let args = ["train", "run.toml", "--set", &folder, "--set", &set];
            costs_nothing(&place, &[&args, &fleet[..]].concat(), large);
        }
    }
}

#[test]
fn deadlines_beyond_what_a_clock_can_count_are_none_and_such_speeds_are_refused() {
    let place = Place::new();
    let fleet = ["train", "run.toml", "--device", "cpu,cpu@0.9", "--set", "batch.micro=1"];
    for key in ["sync.deadline_s", "sync.period_s", "stop.hours"] {
        let (folder, set) = (format!("folder=out/{key}"), format!("{key}=1e300"));
        costs_nothing(&place, &[&fleet[..], &["--set", &folder, "--set", &set]].concat(), "1e300");
    }
    for speeds in ["[1e-300, 1.0]", "[1.0, 1e300]"] {
        let set = format!("sync.virtual_speeds={speeds}");
        let said = place.fail(2, &["train", "run.toml", "--set", &set]);
        assert!(said.contains("sync.virtual_speeds.") && said.contains("sequences a second"), "{said}");
    }
}

/// As `lingot generate ... | head -c 400` does it: the text has no line ends of its own.
#[test]
fn a_text_without_a_limit_is_streamed_at_once_and_stops_with_its_reader() {
    let place = with_models();
    for tokens in ["1000000000", "18446744073709551615"] {
        let args = ["generate", "imported", "--prompt", "the", "--greedy", "--tokens", tokens];
        let mut child = place.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut read = [0; 400];
        let begin = Instant::now();
        out.read_exact(&mut read).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        drop(out);
        ends_soon(child);
    }
}

/// A reader that goes away while nothing is written is noticed too.
#[test]
fn generating_ends_when_its_reader_is_gone_though_nothing_was_written() {
    let place = with_models();
    place.write("long.jsonl", "{\"prompt\": \"the cat\"}\n");
    for args in [
        &["generate", "imported", "--prompt", "the", "--greedy", "--json"][..],
        &["generate", "imported", "--prompts", "long.jsonl", "--greedy"],
    ] {
        let args = [args, &["--tokens", "1000000000"]].concat();
        let mut child = place.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none());
        drop(child.stdout.take());
        ends_soon(child);
    }
}

fn ends_soon(mut child: std::process::Child) {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("it went on without a reader");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
