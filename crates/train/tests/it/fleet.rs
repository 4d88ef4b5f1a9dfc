//! Several devices in one process: they learn what one learns, and lose nothing when devices come and go.

use crate::it::step::{contents, ledgers, run, tiny};
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_device::entry::Opener;
use lingot_device::throttled::{Controls, Fault, Throttle, Throttled};
use lingot_spec::event::{Event, Exchange};
use lingot_spec::problem::{Problem, Result};
use lingot_train::config::Resolved;
use lingot_train::record::log;
use lingot_train::{data, step};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// What holds the devices of a test: each entry is a name, opened as a throttled processor of one thread.
#[derive(Clone, Default)]
pub(crate) struct Lab(Arc<Mutex<BTreeMap<String, Controls>>>);

impl Lab {
    pub(crate) fn opener(&self, throttle: impl Fn(&str) -> Throttle + Send + Sync + 'static) -> Opener {
        let lab = self.clone();
        Arc::new(move |name| {
            let (device, controls) = Throttled::new(Device::new(Cpu::new(1)), name, throttle(name));
            lab.0.lock().unwrap().insert(name.into(), controls);
            Ok(Device::new(device))
        })
    }

    /// Lets devices that hang go on, so that their threads end.
    pub(crate) fn recover_all(&self) {
        self.0.lock().unwrap().values().for_each(Controls::recover);
    }

    pub(crate) fn controls(&self, name: &str) -> Controls {
        self.0.lock().unwrap()[name].clone()
    }
}

pub(crate) fn train(
    resolved: &Resolved,
    open: Opener,
    listen: &mut dyn FnMut(&Event),
) -> Result<step::Summary> {
    let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
    step::train_fleet(resolved, &dataset, open, listen, &AtomicBool::new(false))
}

fn plain(resolved: &Resolved) -> step::Summary {
    train(resolved, Lab::default().opener(|_| Throttle::default()), &mut |_| ()).unwrap()
}

const SMALL: [&str; 2] = ["batch.micro=1", "sync.deadline_s=30"];
const THREE: &str = r#"devices=["a", "b", "c"]"#;

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL, more].concat()
}

pub(crate) fn exchanges(folder: &Path) -> Vec<Exchange> {
    let keep = |event| if let Event::Exchange(exchange) = event { Some(exchange) } else { None };
    log::read(folder).unwrap().into_iter().filter_map(keep).collect()
}

pub(crate) fn anomalies(folder: &Path, kind: &str) -> Vec<String> {
    let events = log::read(folder).unwrap().into_iter();
    let keep = |event| match event {
        Event::Anomaly(found) if found.kind == kind => Some(found.reason),
        _ => None,
    };
    events.filter_map(keep).collect()
}

/// The largest difference between two checkpoints' weights, over the largest weight.
fn difference(a: &step::Summary, b: &step::Summary) -> f64 {
    let (a, b) = (contents(a).0, contents(b).0);
    let pairs = || a.iter().zip(&b).flat_map(|(a, b)| a.2.iter().zip(&b.2));
    let worst = pairs().map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    worst / pairs().map(|(a, _)| f64::from(a.abs())).fold(0.0, f64::max)
}

#[test]
fn a_fleet_of_one_computes_the_bits_of_one_device() {
    let [alone, fleet] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let more = ["model.router.warmup_steps=9", "batch.from=4", "batch.ramp_steps=6"];
    let alone = run(&tiny(alone.path(), &with(&more)), 1);
    let fleet = plain(&tiny(fleet.path(), &[&with(&more)[..], &[r#"devices=["a"]"#]].concat()));
    assert_eq!(contents(&alone), contents(&fleet));
    assert_eq!(alone.tokens, fleet.tokens);
}

#[test]
fn a_fleet_learns_what_one_device_learns() {
    for router in ["model.router.selection_bias=true", "model.router.balance_loss=0.01"] {
        let [alone, fleet] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let one = run(&tiny(alone.path(), &with(&[router])), 1);
        let three = plain(&tiny(fleet.path(), &with(&[router, THREE])));
        assert_eq!((one.step, one.tokens), (three.step, three.tokens));
        let (a, b) = (one.held_out_loss.unwrap(), three.held_out_loss.unwrap());
        assert!((a / b - 1.0).abs() < 1e-4, "{router}: {a} {b}");
        assert!(difference(&one, &three) < 2e-3, "{router}: {}", difference(&one, &three));
    }
}

#[test]
fn the_log_has_every_piece_and_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    plain(&tiny(folder.path(), &with(&[THREE])));
    let found = exchanges(folder.path());
    assert_eq!(found.len(), 12);
    for exchange in found {
        assert_eq!(exchange.pieces.iter().map(|piece| piece.micros).sum::<usize>(), 8);
        assert!(exchange.bytes > 0);
        assert_eq!(exchange.bytes, exchange.predicted_bytes);
    }
}

/// A run of three devices, killed after its end so that only the checkpoint of step 5 is left, and gone on
/// with.
#[test]
fn steps_that_a_kill_took_are_divided_as_before_and_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &with(&[THREE]));
    let first = plain(&resolved);
    let before = contents(&first);
    let divided: Vec<_> = exchanges(folder.path()).into_iter().map(|exchange| exchange.pieces).collect();
    for step in ["step-00000010", "step-00000012"] {
        std::fs::remove_dir_all(folder.path().join("checkpoints").join(step)).unwrap();
    }
    let again = plain(&resolved);
    let divided_again: Vec<_> =
        exchanges(folder.path()).into_iter().map(|exchange| exchange.pieces).collect();
    assert_eq!(divided, divided_again);
    assert_eq!(before, contents(&again));
}

/// As above, but a line of the log is damaged: what the other lines say still counts, and the damage is said.
#[test]
fn a_damaged_line_of_the_log_loses_no_division_of_other_steps() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &with(&[THREE]));
    let before = contents(&plain(&resolved));
    for step in ["step-00000010", "step-00000012"] {
        std::fs::remove_dir_all(folder.path().join("checkpoints").join(step)).unwrap();
    }
    let path = folder.path().join("run.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let damaged =
        text.replacen("\"event\":\"step\",\"step\":3,\"loss\"", "\"event\":\"step\",\"step\":3,\"lass\"", 1);
    assert_ne!(text, damaged);
    std::fs::write(&path, damaged).unwrap();
    let again = plain(&resolved);
    assert_eq!(before, contents(&again));
    let text = std::fs::read_to_string(&path).unwrap();
    let said: Vec<&str> = text.lines().filter(|line| line.contains("unreadable_log")).collect();
    assert!(said.len() == 1 && said[0].contains("set aside line"), "{said:?}");
}

#[test]
fn a_device_that_dies_hangs_or_corrupts_is_dropped_and_nothing_is_lost() {
    let undisturbed = tempfile::tempdir().unwrap();
    let whole = plain(&tiny(undisturbed.path(), &with(&[THREE])));
    for (fault, words) in
        [(Fault::Dies, "has died"), (Fault::Hangs, "was silent for"), (Fault::Corrupts, "not finite")]
    {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::default();
        let throttle = move |name: &str| Throttle {
            fault: (name == "b").then_some((900, fault)),
            ..Throttle::default()
        };
        let resolved = tiny(folder.path(), &with(&[THREE, "sync.deadline_s=0.5"]));
        let summary = train(&resolved, lab.opener(throttle), &mut |_| ()).unwrap();
        lab.controls("b").recover();
        assert_eq!((summary.step, summary.tokens), (whole.step, whole.tokens));
        let lost = anomalies(folder.path(), "device_lost");
        assert!(lost.iter().any(|reason| reason.starts_with("b ") && reason.contains(words)), "{lost:?}");
        let (a, b) = (whole.held_out_loss.unwrap(), summary.held_out_loss.unwrap());
        assert!((a / b - 1.0).abs() < 1e-4, "{fault:?}: {a} {b}");
    }
}

#[test]
fn a_device_that_recovers_joins_again() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::default();
    let resolved = tiny(folder.path(), &with(&[THREE, "stop.steps=40", "sync.deadline_s=0.5"]));
    let controls = lab.clone();
    let mut listen = |event: &Event| {
        if let Event::Step(step) = event {
            match step.step {
                3 => controls.controls("b").set(Fault::Dies),
                5 => controls.controls("c").set(Fault::Hangs),
                8 => controls.controls("c").recover(),
                _ => {}
            }
        }
    };
    let summary = train(&resolved, lab.opener(|_| Throttle::default()), &mut listen).unwrap();
    assert_eq!(summary.step, 40);
    let joined = anomalies(folder.path(), "device_joined");
    assert!(joined.iter().any(|reason| reason.starts_with("b ")), "{joined:?}");
    assert!(joined.iter().any(|reason| reason.starts_with("c ")), "{joined:?}");
    let last = exchanges(folder.path()).pop().unwrap();
    assert_eq!(last.pieces.len(), 3, "{last:?}");
}

#[test]
fn when_all_devices_are_lost_what_was_done_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let throttle = |_: &str| Throttle { fault: Some((2500, Fault::Dies)), ..Throttle::default() };
    let resolved = tiny(folder.path(), &with(&[THREE, "checkpoint.every=0", "stop.steps=400"]));
    let error = train(&resolved, Lab::default().opener(throttle), &mut |_| ()).unwrap_err();
    assert!(error.kind.is_device() && error.problem.contains("all devices are lost"), "{error}");
    let kept = lingot_train::checkpoint::newest::list(&folder.path().join("checkpoints")).unwrap();
    let taken = exchanges(folder.path()).len() as u64;
    assert_eq!(kept.last().unwrap().0, taken);
}

#[test]
fn when_a_device_slows_down_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &with(&[r#"devices=["a", "b"]"#, "stop.steps=24"]));
    let lab = Lab::default();
    let mut listen = |event: &Event| {
        if let Event::Step(step) = event
            && step.step == 12
        {
            lab.controls("a").set(Fault::Slows(0.1));
        }
    };
    let summary = train(&resolved, lab.opener(|_| Throttle::default()), &mut listen).unwrap();
    assert_eq!((summary.step, summary.tokens), (24, 24 * 8 * 32));
    let found = exchanges(folder.path());
    assert!(found.iter().all(|step| step.pieces.iter().map(|piece| piece.micros).sum::<usize>() == 8));
    assert!(anomalies(folder.path(), "device_lost").is_empty());
}

#[test]
fn devices_that_cannot_work_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let absent: Opener =
        Arc::new(|name| Err(Problem::new(format!("no device is called `{name}`"), "look again")));
    let error = train(&tiny(folder.path(), &with(&[THREE])), absent, &mut |_| ()).unwrap_err();
    assert!(error.problem.contains("no device is called"), "{error}");
    let small = |_: &str| Throttle { memory_bytes: Some(1000), ..Throttle::default() };
    let error =
        train(&tiny(folder.path(), &with(&[THREE])), Lab::default().opener(small), &mut |_| ()).unwrap_err();
    assert!(error.kind.is_device() && error.problem.contains("which has 1000"), "{error}");
}

#[test]
fn every_device_has_an_account_that_adds_up_and_a_price_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let prices = ["price.per_hour=3600", "price.currency=EUR", "price.devices.b=7200"];
    let summary = plain(&tiny(folder.path(), &[&with(&[THREE])[..], &prices].concat()));
    let ledgers = ledgers(folder.path());
    let [.., before, ledger] = &ledgers[..] else { panic!("{ledgers:?}") };
    let names: Vec<&str> = ledger.devices.iter().map(|device| device.device.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for device in &ledger.devices {
        assert!((device.seconds() - ledger.seconds).abs() < 1e-9 && device.compute_s > 0.0, "{device:?}");
        let per_s = if device.device == "b" { 2.0 } else { 1.0 };
        assert!((device.money.unwrap() - per_s * device.seconds()).abs() < 1e-9, "{device:?}");
    }
    assert!((ledger.money.unwrap() - 4.0 * ledger.seconds).abs() < 1e-6);
    // The run's own meter has the same price and the same beginning, and is read between the last two
    // ledgers.
    assert!((summary.money.unwrap() - 4.0 * summary.seconds).abs() < 1e-6);
    assert!(before.seconds <= summary.seconds && summary.seconds <= ledger.seconds, "{summary:?}");
}

#[test]
fn lists_of_devices_that_make_no_sense_are_refused_where_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |more: &str| {
        let text = format!(
            "folder = {:?}\n{more}\n[data]\ncorpora = [{{ path = \"x\" }}]\n[model]\npreset = \"toy\"",
            folder.path()
        );
        lingot_train::config::parse(&text, Path::new("run.toml"), &[]).unwrap_err()
    };
    for (list, words) in [
        (r#"devices = ["cpu", "cpu:0"]"#, "names one accelerator twice"),
        (r#"devices = ["cpu@1.5"]"#, "1.5 is not above 0"),
        (r#"devices = [""]"#, "name is missing"),
    ] {
        let error = refused(list);
        assert!(error.problem.contains(words) && !error.hint.is_empty(), "{error}");
    }
}

/// A run whose file is edited while it goes on: what is asked for after each of some steps.
fn edited(folder: &Path, lab: &Lab, edits: &[(u64, &str)]) -> step::Summary {
    let file = folder.join("edited.toml");
    let of = |devices: &str| {
        tiny(folder, &with(&[devices, "stop.steps=40", "price.per_hour=3600", "price.currency=EUR"])).toml
    };
    std::fs::write(&file, of(r#"devices=["a", "b"]"#)).unwrap();
    let resolved = lingot_train::config::load(&file, &[]).unwrap();
    let mut listen = |event: &Event| {
        if let Event::Step(step) = event {
            if let Some((_, text)) = edits.iter().find(|(at, _)| *at == step.step) {
                let text = if text.starts_with("devices") { of(text) } else { (*text).into() };
                std::fs::write(&file, text).unwrap();
            }
            // So that what is opened meanwhile is ready before the run is over.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    train(&resolved, lab.opener(|_| Throttle::default()), &mut listen).unwrap()
}

#[test]
fn editing_the_runs_file_adds_and_removes_devices() {
    let [calm, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let edits = [(5, r#"devices=["a", "b", "c"]"#), (20, r#"devices=["b", "c"]"#)];
    let summary = edited(folder.path(), &Lab::default(), &edits);
    let undisturbed = plain(&tiny(calm.path(), &with(&[r#"devices=["a", "b"]"#, "stop.steps=40"])));
    assert_eq!((summary.step, summary.tokens), (undisturbed.step, undisturbed.tokens));
    let (a, b) = (undisturbed.held_out_loss.unwrap(), summary.held_out_loss.unwrap());
    assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
    let joined = anomalies(folder.path(), "device_joined");
    assert!(joined.iter().any(|reason| reason.starts_with("c joins after step")), "{joined:?}");
    assert_eq!(anomalies(folder.path(), "device_left"), ["a was taken out of the run after step 20"]);
    assert!(anomalies(folder.path(), "device_lost").is_empty());
    let found = exchanges(folder.path());
    let workers = |exchange: &Exchange| exchange.pieces.iter().map(|piece| piece.worker).collect::<Vec<_>>();
    assert_eq!(workers(&found[4]), [0, 1]);
    assert_eq!(workers(found.last().unwrap()), [1, 2]);
    let ledger = ledgers(folder.path()).pop().unwrap();
    let [a, b, c] = [0, 1, 2].map(|device: usize| ledger.devices[device].clone());
    assert!(a.seconds() < b.seconds() && c.seconds() < b.seconds(), "{ledger:?}");
    assert_eq!(ledger.devices.iter().map(|device| device.tokens).sum::<u64>(), ledger.tokens);
    assert!((b.seconds() - ledger.seconds).abs() < 1e-9);
}

#[test]
fn a_file_that_makes_no_sense_any_more_changes_nothing_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let summary = edited(folder.path(), &Lab::default(), &[(4, "[model")]);
    assert_eq!(summary.step, 40);
    let refused = anomalies(folder.path(), "devices_refused");
    assert!(refused.len() == 1 && refused[0].contains("stay as they are"), "{refused:?}");
    assert_eq!(exchanges(folder.path()).last().unwrap().pieces.len(), 2);
}
