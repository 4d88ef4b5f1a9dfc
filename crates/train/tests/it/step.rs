//! The loop on a tiny model and real text: it learns, resumes bit for bit, and forgives what it can.

use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_spec::event::Event;
use lingot_train::checkpoint::Loaded;
use lingot_train::config::{self, Resolved};
use lingot_train::record::log;
use lingot_train::{checkpoint, data, step};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A tiny run in `folder`, on a text and a source file of this repository.
pub(crate) fn tiny(folder: &Path, more: &[&str]) -> Resolved {
    // A copy, so that editing the files meanwhile does not change the corpus.
    let sources = folder.join("text");
    let texts = [include_str!("../../../../LICENSE"), include_str!("../../../sync/src/penalty.rs")];
    fs::create_dir_all(&sources).unwrap();
    for (index, text) in texts.iter().enumerate() {
        fs::write(sources.join(format!("{index}.rs")), text).unwrap();
    }
    let sources = sources.display();
    let text = format!(
        r#"
folder = "{}"
[model]
preset = "toy"
vocabulary = 300
width = 32
layers = 2
dense_width = 48
experts = 4
expert_width = 16
head_width = 16
rotary_width = 8
heads = 2
kv_heads = 1
[data]
corpora = [{{ path = "{sources}" }}]
sequence = 32
[batch]
sequences = 8
micro = 4
[schedule]
warmup_steps = 2
[stop]
steps = 12
[evaluation]
every = 6
sequences = 8
[checkpoint]
every = 5
keep = 0
[device]
threads = 1
"#,
        folder.display()
    );
    let overrides: Vec<String> = more.iter().map(|&more| more.into()).collect();
    config::parse(&text, Path::new("tiny.toml"), &overrides).unwrap()
}

pub(crate) fn run(resolved: &Resolved, threads: usize) -> step::Summary {
    let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
    let device = Device::new(Cpu::new(threads));
    step::train(resolved, &dataset, &device, &mut |_| (), &AtomicBool::new(false)).unwrap()
}

/// Everything a checkpoint holds, but for the time it took.
pub(crate) fn contents(
    summary: &step::Summary,
) -> (Vec<checkpoint::Tensor>, Vec<checkpoint::Tensor>, Vec<checkpoint::Tensor>) {
    let Loaded { weights, moments, buffers, .. } = checkpoint::load(&summary.checkpoint).unwrap();
    (weights, moments, buffers)
}

#[test]
fn a_run_learns_and_writes_down_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let summary = run(&tiny(folder.path(), &["optimizer.rate=0.01"]), 1);
    assert_eq!((summary.step, summary.interrupted), (12, false));
    assert!(summary.held_out_loss < summary.first_held_out_loss, "{summary:?}");
    let events = log::read(folder.path()).unwrap();
    let count = |kind: fn(&Event) -> bool| events.iter().filter(|event| kind(event)).count();
    assert_eq!(count(|event| matches!(event, Event::Step(_))), 12);
    assert_eq!(count(|event| matches!(event, Event::Evaluation(_))), 3);
    assert_eq!(count(|event| matches!(event, Event::Checkpoint(_))), 3);
    assert_eq!(count(|event| matches!(event, Event::Experts(_))), 1);
    assert!(matches!(events[0], Event::Start(_)) && matches!(events[events.len() - 1], Event::End(_)));
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_bit_for_bit() {
    let whole = tempfile::tempdir().unwrap();
    let broken = tempfile::tempdir().unwrap();
    // Routing warmup, a batch ramp and a recomputed layer, so that all state there is takes part.
    let more = [
        "model.router.warmup_steps=9",
        "batch.from=4",
        "batch.ramp_steps=6",
        "device.recompute=[\"block\", \"experts\"]",
    ];
    let undisturbed = run(&tiny(whole.path(), &more), 1);
    let resolved = tiny(broken.path(), &more);
    run(&resolved, 1);
    // Back to step 5: what came after never happened.
    for step in ["step-00000010", "step-00000012"] {
        fs::remove_dir_all(broken.path().join("checkpoints").join(step)).unwrap();
    }
    let resumed = run(&resolved, 1);
    assert_eq!(contents(&undisturbed), contents(&resumed));
    assert_eq!(undisturbed.held_out_loss, resumed.held_out_loss);
}

#[test]
fn a_killed_run_pays_for_what_it_lost_and_its_ledger_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(
        folder.path(),
        &["price.per_hour=3600", "price.currency=EUR", "evaluation.every=4", "stop.loss=0.1"],
    );
    let whole = run(&resolved, 1);
    let ledger = last_ledger(folder.path());
    let sum = ledger.devices[0].seconds();
    assert!((sum - ledger.seconds).abs() < 1e-9 && ledger.devices[0].lost_s == 0.0, "{ledger:?}");
    let [compute, evaluation] = [ledger.devices[0].compute_s, ledger.devices[0].evaluation_s];
    assert!(compute > 0.0 && evaluation > 0.0 && ledger.devices[0].peak_memory_bytes > 0, "{ledger:?}");
    assert!((ledger.money.unwrap() - sum).abs() < 1e-9, "one EUR a second");

    // As if it had been killed at the end, with only the checkpoint of step 5 on disk.
    for step in ["step-00000010", "step-00000012"] {
        fs::remove_dir_all(folder.path().join("checkpoints").join(step)).unwrap();
    }
    let at_5 = ledgers(folder.path()).into_iter().rfind(|line| line.step <= 5).unwrap();
    let again = run(&resolved, 1);
    let paid = last_ledger(folder.path());
    let lost_s = ledger.seconds - at_5.seconds;
    assert!((paid.devices[0].lost_s - lost_s).abs() < 0.01 + 0.01 * lost_s, "{lost_s} {paid:?}");
    assert!((paid.devices[0].seconds() - paid.seconds).abs() < 1e-9);
    assert!(paid.seconds > whole.seconds && again.seconds > whole.seconds, "lost time is paid time");
}

pub(crate) fn ledgers(folder: &Path) -> Vec<lingot_spec::event::Ledger> {
    let only = |event| if let Event::Ledger(ledger) = event { Some(ledger) } else { None };
    log::read(folder).unwrap().into_iter().filter_map(only).collect()
}

fn last_ledger(folder: &Path) -> lingot_spec::event::Ledger {
    ledgers(folder).pop().unwrap()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, two] = [1, 2].map(|threads| contents(&run(&tiny(folders[threads - 1].path(), &[]), threads)));
    assert_eq!(one, two);
}

#[test]
fn a_finished_run_does_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &[]);
    let first = contents(&run(&resolved, 1));
    let again = run(&resolved, 1);
    assert_eq!(again.step, 12);
    assert_eq!(first, contents(&again));
}

#[test]
fn steps_without_a_finite_loss_are_skipped_and_then_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &["optimizer.rate=1e30", "optimizer.clip=0", "stop.steps=40"]);
    let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
    let device = Device::new(Cpu::new(1));
    let error = step::train(&resolved, &dataset, &device, &mut |_| (), &AtomicBool::new(false)).unwrap_err();
    assert!(error.problem.contains("no finite loss or gradient"), "{error}");
    assert!(error.hint.contains("optimizer.rate"), "{error}");
    let events = log::read(folder.path()).unwrap();
    assert!(events.iter().any(|event| matches!(event, Event::Anomaly(found) if found.kind == "not_finite")));
}

#[test]
fn an_interrupted_run_saves_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &[]);
    let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
    let device = Device::new(Cpu::new(1));
    let interrupted = AtomicBool::new(false);
    let mut listen = |event: &Event| {
        if matches!(event, Event::Step(step) if step.step == 3) {
            interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let summary = step::train(&resolved, &dataset, &device, &mut listen, &interrupted).unwrap();
    assert_eq!((summary.step, summary.interrupted), (3, true));
    assert_eq!(run(&resolved, 1).step, 12);
}

#[test]
fn a_run_that_resumes_with_another_batch_neither_repeats_nor_skips_text() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(folder.path(), &["stop.steps=4"]), 1);
    run(&tiny(folder.path(), &["stop.steps=8", "batch.sequences=4"]), 1);
    let set = ["stop.steps=12", "batch.sequences=16", "batch.from=8", "batch.ramp_steps=12"];
    let summary = run(&tiny(folder.path(), &set), 1);
    let Loaded { manifest, .. } = checkpoint::load(&summary.checkpoint).unwrap();
    // The ramp moves in micro-batches of 4: steps 8 to 11 take 12 sequences each.
    assert_eq!(manifest.head.samples, Some(4 * 8 + 4 * 4 + 4 * 12));
    let events = log::read(folder.path()).unwrap();
    let epochs = events.iter().filter_map(|event| match event {
        Event::Step(step) => Some(step.epoch),
        _ => None,
    });
    let epochs: Vec<f64> = epochs.collect();
    let per_sample = epochs[0] / 8.0;
    let taken = epochs.windows(2).map(|pair| ((pair[1] - pair[0]) / per_sample).round() as u64);
    let expected: Vec<u64> = [vec![8; 3], vec![4; 4], vec![12; 4]].concat();
    assert_eq!(taken.collect::<Vec<u64>>(), expected);
}
