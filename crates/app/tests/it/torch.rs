//! A run on the user's torch, where there is one: killed and resumed, it is the same run bit for bit.

use super::program::write_small_run;
use lingot_device::torch::Torch;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SCHEDULE: &str = r#"
[stop]
steps = 40
[evaluation]
every = 20
sequences = 4
[checkpoint]
every = 5
[device]
name = "torch:cpu"
threads = 1
"#;

fn train(run: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lingot"));
    command.arg("train").arg(run).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn a_run_on_torch_that_is_killed_and_resumed_ends_with_the_same_bits() {
    if let Err(error) = Torch::found() {
        return println!("skipped: {error}");
    }
    outlives_a_kill(&train);
}

#[test]
fn a_run_on_a_chip_that_is_killed_and_resumed_ends_with_the_same_bits() {
    let Some(chip) = apart::build() else { return };
    outlives_a_kill(&|run| train_on_chip(&chip, run, &[]));
}

fn outlives_a_kill(train: &dyn Fn(&Path) -> Command) {
    let folder = tempfile::tempdir().unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| write_small_run(folder.path(), name, SCHEDULE));
    assert!(train(&whole).status().unwrap().success());
    let checkpoint = folder.path().join("cut/checkpoints/step-00000010");
    // A run that finished before the kill tests nothing, and starts again.
    while !is_killed_after(&checkpoint, train(&cut)) {
        fs::remove_dir_all(folder.path().join("cut")).unwrap();
    }
    assert!(train(&cut).status().unwrap().success());
    assert!(ended(folder.path(), "whole") == ended(folder.path(), "cut"), "the resumed run differs");
}

/// Weights and moments of a run at its end.
fn ended(folder: &Path, name: &str) -> [Vec<u8>; 2] {
    let last = folder.join(name).join("checkpoints/step-00000040");
    ["weights.safetensors", "optimizer.safetensors"].map(|file| fs::read(last.join(file)).unwrap())
}

#[path = "../../../device/tests/chip/apart.rs"]
mod apart;

/// A run on the test chip, with settings of the chip.
fn train_on_chip(chip: &Path, run: &Path, settings: &[(&str, &Path)]) -> Command {
    let mut command = train(run);
    command
        .args(["--set", "device.name=torch:testchip:1"])
        .env(apart::EXTENSION, chip)
        .stderr(Stdio::piped());
    command.envs(settings.iter().copied());
    command
}

#[test]
fn a_run_on_a_chip_outlives_its_loss_and_its_lack_of_room_and_goes_on_with_the_same_bits() {
    let Some(chip) = apart::build() else { return };
    let folder = tempfile::tempdir().unwrap();
    let runs = ["whole", "lost", "full"].map(|name| write_small_run(folder.path(), name, SCHEDULE));
    assert!(train_on_chip(&chip, &runs[0], &[]).status().unwrap().success());
    for (name, setting, run) in [("lost", "CHIP_LOST_WHEN", &runs[1]), ("full", "CHIP_FULL_WHEN", &runs[2])] {
        let trigger = folder.path().join(name).join("checkpoints/step-00000005");
        let output = train_on_chip(&chip, run, &[(setting, &trigger)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        let wanted: &[&str] = match name {
            "lost" => &["the device answers no more", "hint: the run goes on from its newest checkpoint"],
            _ => &[
                " was not done: torch:testchip:1: ",
                "67108864 bytes",
                " is saved and the run goes on from it",
                "--set batch.micro = ",
                " bytes of tensors instead of ",
            ],
        };
        assert!(wanted.iter().all(|words| said.contains(words)), "{said}");
        assert!(train_on_chip(&chip, run, &[]).status().unwrap().success());
        assert!(
            ended(folder.path(), name) == ended(folder.path(), "whole"),
            "{name}: the resumed run differs"
        );
    }
}

/// An update that finds no room before it writes the first tensor leaves the step before it; one that has
/// written leaves nothing. From the second update on nothing is allocated, so nothing can be missing.
#[test]
fn an_update_without_room_leaves_the_step_before_it_or_says_that_it_broke_off() {
    let Some(chip) = apart::build() else { return };
    let folder = tempfile::tempdir().unwrap();
    let runs = ["whole", "large", "fused", "torn"].map(|name| write_small_run(folder.path(), name, SCHEDULE));
    assert!(train_on_chip(&chip, &runs[0], &[]).status().unwrap().success());
    let [bytes, operator, some] = ["4194304", "aten::_fused_adamw_", "7"].map(Path::new);
    let after = |name: &str, step: u64| folder.path().join(format!("{name}/checkpoints/step-{step:08}"));
    let fails = |run: &Path, settings: &[(&str, &Path)], wanted: &[&str]| {
        let output = train_on_chip(&chip, run, settings).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(wanted.iter().all(|words| said.contains(words)), "{wanted:?} in {said}");
    };

    // No tensor of the size of the update's scratch, from the start: no step is done, and the beginning is
    // saved.
    let told = ["step 1 was not done: ", "4194304 bytes", "step 0 is saved", "--set batch.micro = "];
    fails(&runs[1], &[("CHIP_FULL_WHEN", &runs[1]), ("CHIP_FULL_BYTES", bytes)], &told);
    // The same from step 5 on, in a process that has its scratch: nothing is missing.
    let full = after("large", 5);
    let settings = [("CHIP_FULL_WHEN", full.as_path()), ("CHIP_FULL_BYTES", bytes)];
    assert!(train_on_chip(&chip, &runs[1], &settings).status().unwrap().success());

    // No room in the operator itself, at the first call.
    let full = after("fused", 5);
    let settings = [("CHIP_FULL_WHEN", full.as_path()), ("CHIP_FULL_AT", operator)];
    fails(
        &runs[2],
        &settings,
        &[" was not done: ", "67108864 bytes", " is saved and the run goes on from it"],
    );
    assert!(train_on_chip(&chip, &runs[2], &[]).status().unwrap().success());

    // And in the midst of the third update, whose first call, for what decays, has written: two calls were
    // made to try the operator, and each update makes two.
    let settings =
        [("CHIP_FULL_WHEN", runs[3].as_path()), ("CHIP_FULL_AT", operator), ("CHIP_FULL_AFTER", some)];
    let told = ["it broke off half-way through the update", "there is no checkpoint yet of the "];
    fails(&runs[3], &settings, &told);
    assert!(!folder.path().join("torn/checkpoints").exists(), "weights of no step were saved");
    assert!(train_on_chip(&chip, &runs[3], &[]).status().unwrap().success());

    for name in ["large", "fused", "torn"] {
        assert!(
            ended(folder.path(), name) == ended(folder.path(), "whole"),
            "{name}: the resumed run differs"
        );
    }
}

/// A trained model's loss on held-out text, and its answers, by the definition of the CPU and by torch's
/// devices.
#[test]
fn a_model_is_scored_alike_on_every_device() {
    let Some(chip) = apart::build() else { return };
    let folder = tempfile::tempdir().unwrap();
    let run = write_small_run(folder.path(), "run", SCHEDULE);
    assert!(train(&run).args(["--set", "device.name=cpu"]).status().unwrap().success());
    let questions = (0..20).map(|i| {
        let choices = format!("[\"the house\", \"{i} x\", \"a tree\"]");
        format!("{{\"question\": \"{i} and one\", \"choices\": {choices}, \"answer\": {}}}\n", i % 3)
    });
    fs::write(folder.path().join("questions.jsonl"), questions.collect::<String>()).unwrap();
    let scores = |device: &str| -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lingot"));
        command.current_dir(folder.path()).env(apart::EXTENSION, &chip);
        command.args(["eval", "run", "--json", "--device", device]);
        let held_out = command.output().unwrap();
        let answers = command.args(["--choices", "questions.jsonl"]).output().unwrap();
        let [held_out, answers] = [held_out, answers].map(|output| {
            assert!(output.status.success(), "{device}: {}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        });
        serde_json::json!({ "text": held_out["text"], "choices": answers["choices"] })
    };
    let wanted = scores("cpu");
    for device in ["torch:cpu", "torch:testchip:1"] {
        let found = scores(device);
        assert_eq!(found["choices"], wanted["choices"], "{device}");
        let [loss, right] = [&found, &wanted].map(|scores| scores["text"]["loss"].as_f64().unwrap());
        assert!((loss / right - 1.0).abs() < 1e-5, "{device}: {loss}, cpu {right}");
        assert_eq!(found["text"]["tokens"], wanted["text"]["tokens"], "{device}");
    }
}

/// Kills the run once the checkpoint is there. Returns false if the run had finished by then.
fn is_killed_after(checkpoint: &Path, mut run: Command) -> bool {
    let mut child = run.spawn().unwrap();
    while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() || status.code().is_none(), "the run failed: {status}");
    !status.success()
}

/// The object of `lingot devices --json`.
fn devices(variable: &str, value: impl AsRef<OsStr>) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lingot"));
    let output = command.args(["devices", "--json"]).env(variable, value).output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is said of a device that was not found.
fn reason(device: &str, variable: &str, value: impl AsRef<OsStr>) -> String {
    let report = devices(variable, value);
    let missing = report["missing"].as_array().unwrap();
    missing.iter().find(|missing| missing["name"] == device).unwrap()["reason"].as_str().unwrap().into()
}

#[test]
fn what_torch_lacks_is_named_with_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let said = reason("torch:cpu", "LINGOT_TORCH", folder.path());
    let place = folder.path().join("lib/libtorch_cpu.so");
    assert!(said.contains("no libtorch was found") && said.contains(place.to_str().unwrap()), "{said}");
    // A file that is not a library.
    fs::write(folder.path().join("libtorch_cpu.so"), "text").unwrap();
    let said = reason("torch:cpu", "LINGOT_TORCH", folder.path());
    assert!(said.contains("libtorch_cpu.so cannot be opened: "), "{said}");
    if let Err(error) = Torch::found() {
        return println!("skipped: {error}");
    }
    let said = reason("torch:npu:0", "LINGOT_TORCH_EXTENSION", "/nowhere/libchip.so");
    assert!(said.contains("/nowhere/libchip.so cannot be opened: "), "{said}");
    let found = devices("LINGOT_TORCH_EXTENSION", "/nowhere/libchip.so")["devices"].to_string();
    assert!(found.contains("torch:cpu"), "what torch knows itself needs no maker's library: {found}");
}

/// A shared library that looks like a libtorch, in a folder of its own; None without a compiler.
fn library(folder: &Path, source: &str) -> Option<std::path::PathBuf> {
    let (text, library) = (folder.join("torch.c"), folder.join("libtorch_cpu.so"));
    fs::write(&text, source).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&text).status();
    built.is_ok_and(|status| status.success()).then(|| folder.to_owned())
}

#[test]
fn a_torch_that_is_too_old_or_not_whole_is_named_with_its_version_and_what_it_lacks() {
    let version = |minor: u32| {
        format!("unsigned long long aoti_torch_abi_version(void) {{ return 2ull << 56 | {minor}ull << 48; }}")
    };
    for (source, wanted) in [
        (version(9), ["torch 2.9 at ", "that is too old"]),
        (version(14), ["torch 2.14 at ", "undefined symbol: torch_call_dispatcher"]),
        ("int nothing;".into(), ["a torch of unknown version at ", "undefined symbol: "]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(torch) = library(folder.path(), &source) else { return println!("skipped: no C compiler") };
        let said = reason("torch:cpu", "LINGOT_TORCH", &torch);
        assert!(wanted.iter().all(|words| said.contains(words)), "{said}");
        let run = write_small_run(folder.path(), "run", SCHEDULE);
        let output = train(&run).env("LINGOT_TORCH", &torch).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(wanted[0]) && said.contains("hint: torch 2.10 or newer"), "{said}");
    }
}

#[test]
fn a_run_on_a_chip_that_torch_does_not_know_ends_with_what_to_do() {
    if let Err(error) = Torch::found() {
        return println!("skipped: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let run = write_small_run(folder.path(), "run", SCHEDULE);
    let output =
        train(&run).args(["--set", "device.name=torch:npu:0"]).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("knows no device `npu:0`") && said.contains("LINGOT_TORCH_EXTENSION"), "{said}");
}

/// The losses of a run's steps, and who computed how many of its micro-batches.
fn curve(folder: &Path) -> (Vec<f64>, [u64; 2]) {
    let (mut losses, mut micros) = (Vec::new(), [0; 2]);
    for line in fs::read_to_string(folder.join("run.jsonl")).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        match event["event"].as_str().unwrap() {
            "step" => losses.push(event["loss"].as_f64().unwrap()),
            "exchange" => event["pieces"].as_array().unwrap().iter().for_each(|piece| {
                micros[piece["worker"].as_u64().unwrap() as usize] += piece["micros"].as_u64().unwrap();
            }),
            _ => {}
        }
    }
    (losses, micros)
}

#[test]
fn a_mixed_fleet_has_the_losses_of_one_device_with_both_routers() {
    if let Err(error) = Torch::found() {
        return println!("skipped: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let chip = apart::build();
    let schedule = "[stop]\nsteps = 40\n[evaluation]\nevery = 0\nsequences = 4\n[device]\nthreads = 1\n";
    for (router, set) in [("v1", V1), ("v2", &[][..])] {
        let run = |name: &str, devices: &str| {
            let path = write_small_run(folder.path(), name, schedule);
            let mut command = train(&path);
            command.args(["--device", devices, "--set", "batch.micro=1"]);
            for set in set {
                command.args(["--set", set]);
            }
            if let Some(chip) = &chip {
                command.env("LINGOT_TORCH_EXTENSION", chip);
            }
            assert!(command.status().unwrap().success(), "{router}: {devices}");
            curve(&folder.path().join(name))
        };
        let (alone, _) = run(&format!("{router}-alone"), "cpu");
        // On so small a model torch is so much slower that a whole processor would leave it no share.
        let mut fleets = vec!["cpu@0.1,torch:cpu"];
        match &chip {
            Some(_) => fleets.push("cpu@0.05,torch:testchip:1"),
            None => println!("skipped: the test chip cannot be built"),
        }
        for devices in fleets {
            let (losses, micros) = run(&format!("{router}-{}", devices.len()), devices);
            assert!(micros.iter().all(|&micros| micros >= 2), "{devices}: {micros:?}");
            assert_eq!(alone.len(), losses.len());
            let worst = alone.iter().zip(&losses).map(|(a, b)| (b / a - 1.0).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-3, "{router}, {devices}: {worst}");
        }
    }
}

/// Settings that give the small run the router of Ling v1.
const V1: &[&str] = &[
    "model.router.score=softmax",
    "model.router.selection_bias=false",
    "model.router.balance_loss=0.015",
    "model.router.z_loss=1e-4",
];
