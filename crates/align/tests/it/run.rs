//! A run trained again: itself agrees to the bit, and a log that tells of another model is found out.

use lingot_align::curve::JudgedBy;
use lingot_align::faults::{Planted, faulty};
use lingot_align::run::{RunPlan, check, check_on};
use lingot_align::task;
use lingot_device::Device;
use lingot_device::Precision;
use lingot_device::cpu::Cpu;
use lingot_train::{config, data, step};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Two small layers of the toy model.
const RUN: &str = "[model]\npreset = \"toy\"\nvocabulary = 300\nlayers = 2\nwidth = 32\nheads = 2\n\
    kv_heads = 1\nhead_width = 16\nrotary_width = 8\nexperts = 4\nexpert_width = 16\n\
    dense_width = 48\n[data]\n";

/// The text of the alignment task in letters: a word of two for each token.
fn made_up() -> String {
    let mut text = String::new();
    for step in 0..12 {
        let micro = task::tasks()[0].micro(1, step, 0);
        for (token, position) in micro.rows().tokens_t.iter().zip(micro.rows().positions_t) {
            let [class, word] = [token / 16, token % 16].map(|letter| char::from(b'a' + letter as u8));
            text.extend([if *position == 0 { "\n\n" } else { " " }.to_owned(), format!("{class}{word}")]);
        }
    }
    text
}

/// Trains a tiny run of 12 steps, with three evaluations, in `folder`.
fn train(folder: &Path) {
    train_with(folder, &[]);
}

fn train_with(folder: &Path, more: &[&str]) {
    let text = folder.join("text.txt");
    fs::write(&text, made_up()).unwrap();
    let mut settings = vec![
        format!("folder={}", folder.display()),
        format!("data.corpora=[{{ path = {:?} }}]", text.display().to_string()),
        "data.sequence=32".into(),
        "batch.sequences=8".into(),
        "batch.micro=4".into(),
        "optimizer.rate=0.01".into(),
        "stop.steps=12".into(),
        "evaluation.every=4".into(),
        "evaluation.sequences=8".into(),
        "device.threads=1".into(),
    ];
    settings.extend(more.iter().map(|&setting| setting.to_owned()));
    let resolved = config::parse(RUN, Path::new("tiny.toml"), &settings).unwrap();
    let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
    let device = Device::new(Cpu::new(1));
    step::train(&resolved, &dataset, &device, &mut |_| (), &AtomicBool::new(false)).unwrap();
}

fn again(folder: &Path, precision: Precision, seeds: u64) -> RunPlan {
    let out = folder.join("align");
    RunPlan { folder: folder.into(), out, device: "cpu".into(), precision, threads: 1, seeds }
}

/// The log with every number after `key` in lines of `event` changed by `change`.
fn edit(folder: &Path, event: &str, key: &str, change: impl Fn(f64) -> f64) {
    let path = folder.join("run.jsonl");
    let edited = fs::read_to_string(&path).unwrap().lines().fold(String::new(), |text, line| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        if value["event"] == event {
            value[key] = change(value[key].as_f64().unwrap()).into();
        }
        format!("{text}{value}\n")
    });
    fs::write(&path, edited).unwrap();
}

#[test]
fn a_run_on_its_own_device_is_the_same_to_the_bit_and_in_bf16_as_near_as_other_seeds() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path());
    let report = check(&again(folder.path(), Precision::F32, 1), &mut |_, _, _| ()).unwrap();
    assert_eq!((report.reference.device.as_str(), report.candidate.device.as_str()), ("tiny", "cpu"));
    let same = report.curve;
    assert_eq!((same.steps, same.mean, same.passed), (12, 0.0, true));
    let first = same.first.unwrap();
    assert_eq!((first.steps, first.difference, same.judged_by), (5, 0.0, Some(JudgedBy::Curve)));
    assert!(first.by_definition.unwrap() < 1e-6, "{first:?}");
    let held_out = same.held_out.unwrap();
    assert_eq!((held_out.reference.len(), held_out.difference), (3, 0.0));

    let rounded = check(&again(folder.path(), Precision::Bf16, 3), &mut |_, _, _| ()).unwrap().curve;
    let held_out = rounded.held_out.unwrap();
    assert!(rounded.mean > 0.0 && held_out.difference > 0.0);
    assert_eq!((held_out.seeds.len(), rounded.seed_noises.len()), (2, 3));
    assert!(rounded.first.as_ref().unwrap().passed, "{:?}", rounded.first);
    assert_eq!(
        rounded.passed,
        held_out.difference <= rounded.bound || held_out.difference <= held_out.seed_noise
    );
    assert!(held_out.seed_noise > held_out.difference && rounded.passed);
}

#[test]
fn a_log_of_another_quality_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path());
    edit(folder.path(), "evaluation", "loss", |loss| loss * 1.01);
    let curve = check(&again(folder.path(), Precision::F32, 1), &mut |_, _, _| ()).unwrap().curve;
    assert_eq!((curve.mean, curve.passed), (0.0, false));
    assert!((curve.held_out.unwrap().difference - 0.01).abs() < 1e-3);
}

#[test]
fn a_run_that_was_stopped_is_refused_with_both_lengths() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path());
    let path = folder.path().join("run.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = lines.lines().filter(|line| !line.contains("\"step\":12")).collect();
    fs::write(&path, kept.join("\n") + "\n").unwrap();
    let error = check(&again(folder.path(), Precision::F32, 1), &mut |_, _, _| ()).unwrap_err().to_string();
    assert!(error.contains("11 steps and 2 evaluations") && error.contains("12 and 3"), "{error}");
    assert!(error.contains("hint"), "{error}");
}

/// Devices whose fault shows in the first steps of a run, and would drown in chance later.
const SHOWN: [Planted; 9] = [
    Planted::LongSumsTooLarge,
    Planted::ExpertOfAnother,
    Planted::ChoicesExchanged,
    Planted::RenormalisationGradientDropped,
    Planted::CorrectionOneStepLate,
    Planted::ZLossGradientDropped,
    Planted::RepeatedTokensLost,
    Planted::StaleScratch,
    Planted::ExpertGradientTransposed,
];

#[test]
fn a_faulty_device_is_found_by_the_first_steps_of_a_run_and_a_sound_one_passes() {
    let folder = tempfile::tempdir().unwrap();
    let wide = ["model.width=336", "model.experts=6", "model.router.z_loss=0.001", "batch.sequences=4"];
    let short = ["stop.steps=6", "evaluation.every=3", "evaluation.sequences=2"];
    train_with(folder.path(), &[&wide[..], &short[..]].concat());
    let plan = again(folder.path(), Precision::F32, 1);
    for planted in SHOWN.map(Some).into_iter().chain([None]) {
        // A finished training would be resumed.
        let _ = fs::remove_dir_all(plan.out.join("cpu-f32"));
        let open = |_: &_| Ok(faulty(&Device::new(Cpu::new(2)), planted));
        let curve = check_on(&plan, &open, &mut |_, _, _| ()).unwrap().curve;
        let first = curve.first.unwrap();
        let wanted = planted.map(|_| JudgedBy::FirstSteps).unwrap_or(JudgedBy::Curve);
        assert_eq!(
            (curve.passed, curve.judged_by),
            (planted.is_none(), Some(wanted)),
            "{planted:?}: {first:?}"
        );
        assert_eq!(first.passed, planted.is_none(), "{planted:?}: {first:?}");
    }
}
