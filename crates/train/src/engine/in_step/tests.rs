//! Shares follow measured speed. Emulated workers stand for devices here, so the speeds are exact and no test
//! waits for a clock.

use super::*;
use crate::config::{self, Resolved};
use crate::crew::Emulated;
use crate::data::prepare_data;
use lingot_data::Dataset;
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A small run of two workers whose speeds are `speeds`.
fn resolved(folder: &Path, speeds: [f64; 2]) -> Resolved {
    let text = folder.join("text.txt");
    std::fs::write(&text, include_str!("../../../../../LICENSE")).unwrap();
    let toml = format!(
        "folder = {folder:?}\n\
         [model]\npreset = \"toy\"\nvocabulary = 300\nwidth = 16\nlayers = 1\ndense_width = 16\nexperts = 2\n\
         expert_width = 8\nhead_width = 8\nrotary_width = 4\nheads = 2\nkv_heads = 1\n\
         [data]\ncorpora = [{{ path = {text:?} }}]\nsequence = 16\n\
         [batch]\nsequences = 8\nmicro = 1\n\
         [sync]\nvirtual_speeds = {speeds:?}\n"
    );
    config::parse(&toml, Path::new("shares.toml"), &[]).unwrap()
}

/// Takes steps with workers of the run's speeds. Returns the micro-batches of each worker, by step.
fn counts(
    resolved: &Resolved,
    dataset: &Dataset,
    mut division: Division,
    steps: usize,
) -> (Vec<[usize; 2]>, Division) {
    let device = Device::new(Cpu::new(1));
    let never = AtomicBool::new(false);
    let run = &resolved.run;
    let (mut training, _) = Training::open(run, dataset, &device, &never, None).unwrap();
    let crew = Emulated::new(run, &device, Box::new(|_, _, _| ()));
    let fleet = Fleet::emulated(run, crew, "cpu", 0).unwrap();
    let mut engine = InStep::new(fleet, &[], 0);
    std::mem::swap(&mut engine.division, &mut division);
    let mut all = Vec::new();
    for _ in 0..steps {
        let batch = engine.fetch(&mut training).unwrap();
        let gathered = engine.differentiate(&mut training, batch).unwrap();
        let taken = engine.agree(&mut training, gathered).unwrap().unwrap();
        engine.update(&mut training, &taken).unwrap();
        let mut counts = [0; 2];
        for piece in taken.meeting.unwrap().exchange.pieces {
            counts[piece.worker] += piece.micros;
        }
        assert_eq!(counts.iter().sum::<usize>(), 8, "a micro-batch is missing");
        all.push(counts);
    }
    (all, engine.division)
}

#[test]
fn a_slower_device_gets_a_smaller_share() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = resolved(folder.path(), [1.0, 0.1]);
    let dataset = prepare_data(&resolved.run, &|_| ()).unwrap();
    let (counts, _) = counts(&resolved, &dataset, Division::new(false, &[], 0), 8);
    assert_eq!(counts[0], [4, 4], "nothing is known yet");
    // At a tenth of the speed no micro-batch is worth waiting for.
    assert_eq!(counts[7], [8, 0], "{counts:?}");
}

#[test]
fn when_a_device_slows_down_the_shares_follow_within_ten_steps() {
    let folder = tempfile::tempdir().unwrap();
    let equal = resolved(folder.path(), [1.0, 1.0]);
    let dataset = prepare_data(&equal.run, &|_| ()).unwrap();
    let (before, division) = counts(&equal, &dataset, Division::new(false, &[], 0), 12);
    assert!(before.iter().all(|counts| *counts == [4, 4]), "{before:?}");
    let slowed = resolved(folder.path(), [1.0 / 3.0, 1.0]);
    let (after, _) = counts(&slowed, &dataset, division, 10);
    assert_eq!(after[9], [2, 6], "{after:?}");
}
