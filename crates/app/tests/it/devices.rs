//! `--device` of every command that has it: it replaces what RUN.toml says, whether that can be opened or
//! not.

use super::program::Place;
use std::fs;
#[cfg(unix)]
use std::process::Command;

/// A run whose RUN.toml names a device that no machine has.
fn elsewhere() -> Place {
    let place = Place::new();
    let run = fs::read_to_string(place.path("run.toml")).unwrap();
    place.write("run.toml", &(run + "\n[device]\nname = \"torch:abacus:9\"\nthreads = 1\n"));
    place
}

#[test]
fn a_run_of_another_machine_trains_on_the_device_that_is_named() {
    let place = elsewhere();
    let said = place.fail(3, &["train", "run.toml"]);
    assert!(!place.path("out/run/checkpoints").exists(), "{said}");
    let report = place.json(&["train", "run.toml", "--device", "cpu"]);
    assert_eq!(report["step"], 12);
    assert!(!report["sample"]["text"].as_str().unwrap().is_empty(), "the closing sample needs a device too");
    assert_eq!(place.json(&["train", "run.toml", "--device", "cpu"])["already_done"], true);
    let resumed = place.json(&["train", "run.toml", "--device", "cpu", "--set", "stop.steps=14"]);
    assert_eq!(resumed["step"], 14);
}

#[test]
fn the_bits_are_those_of_a_run_that_names_the_device_itself() {
    let (place, named) = (elsewhere(), Place::new());
    place.succeed(&["train", "run.toml", "--device", "cpu,cpu@0.9", "--set", "batch.micro=1"]);
    place.succeed(&["train", "run.toml", "--device", "cpu", "--set", "folder=alone"]);
    named.succeed(&["train", "run.toml", "--set", "device.threads=1"]);
    let weights = "checkpoints/step-00000012/weights.safetensors";
    let [alone, own] = [place.path("alone").join(weights), named.path("out/run").join(weights)];
    assert!(fs::read(alone).unwrap() == fs::read(own).unwrap(), "one device of a fleet has other bits");
}

#[test]
fn a_list_in_the_run_is_replaced_too() {
    let place = elsewhere();
    let list = ["--set", "devices=[\"torch:abacus:9\", \"cpu\"]", "--set", "batch.micro=1"];
    place.fail(3, &[&["train", "run.toml"], &list[..]].concat());
    place.succeed(&[&["train", "run.toml", "--device", "cpu"], &list[..]].concat());
}

#[test]
fn other_commands_compute_where_they_are_told_and_not_where_the_run_was() {
    let place = elsewhere();
    place.succeed(&["train", "run.toml", "--device", "cpu"]);
    for device in [&[][..], &["--device", "cpu"], &["--device", "reference"]] {
        place.succeed(&[&["generate", "out/run", "--prompt", "the", "--tokens", "2"], device].concat());
        place.succeed(&[&["eval", "out/run", "--sequences", "1"], device].concat());
    }
    for seeds in ["1", "2"] {
        place.succeed(&["align", "--run", "out/run", "--device", "cpu", "--seeds", seeds]);
    }
    let said = place.succeed(&["align", "--like", "run.toml"]);
    assert!(said.contains("aligned") && said.contains("What it says nothing about"), "{said}");
    for args in [
        &["generate", "out/run", "--prompt", "the"][..],
        &["eval", "out/run"],
        &["align", "--level", "modules"],
        &["align", "--run", "out/run"],
        &["align", "--self-test"],
        &["align", "--like", "run.toml"],
        &["bench", "train"],
        &["bench", "ops"],
        &["bench", "ops", "--model", "T"],
        &["bench", "fleet", "--rounds", "1"],
    ] {
        for absent in ["abacus", "torch:abacus:9"] {
            let said = place.fail(3, &[args, &["--device", absent]].concat());
            assert!(said.contains("abacus"), "{args:?}: {said}");
        }
    }
}

/// Three libraries that stand where torch's does, each with the one thing that it does when it is opened.
#[cfg(unix)]
const HARMFUL: [(&str, &str, &str); 3] = [
    ("crashes", "*(volatile int*)0 = 1;", "SIGSEGV"),
    ("throws", "throw std::runtime_error(\"twice\");", "threw a C++ exception"),
    ("hangs", "for (;;) pause();", "did not answer within 2 s"),
];

#[cfg(unix)]
#[test]
fn a_library_that_crashes_throws_or_hangs_costs_its_own_devices_alone() {
    let place = Place::new();
    for (name, does, told) in HARMFUL {
        let folder = place.path(name).join("lib");
        fs::create_dir_all(&folder).unwrap();
        let source = folder.join("initialiser.cpp");
        let head = "#include <stdexcept>\n#include <unistd.h>\n";
        fs::write(&source, format!("{head}static int first = [] {{ {does} return 0; }}();\n")).unwrap();
        let mut build = Command::new("g++");
        build.args(["-O0", "-fPIC", "-shared", "-w", "-o"]).arg(folder.join("libtorch_cpu.so")).arg(&source);
        match build.status() {
            Ok(status) => assert!(status.success()),
            Err(error) => return eprintln!("skipped: g++ makes the libraries, and {error}"),
        }
        let mut command = place.command(&["devices", "--json", "--timeout-s", "2"]);
        let output = command.env("LINGOT_TORCH", place.path(name)).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: Vec<&str> = report["devices"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|device| device["name"].as_str())
            .collect();
        assert_eq!(names, ["cpu", "reference"], "{name}");
        let missing = report["missing"].as_array().unwrap();
        assert_eq!(missing.len(), 8, "{name}: {missing:?}");
        for device in missing {
            assert!(device["reason"].as_str().unwrap().contains(told), "{name}: {device}");
        }
    }
}
