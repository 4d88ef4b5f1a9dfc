//! A hundred random mishaps: devices that die, hang, slow down, give nonsense or run out of memory while they
//! compute, exchange or wait for a checkpoint, devices that are added, and kills; in step and apart. Each run
//! ends by itself, with every token trained on once and a model as good as the undisturbed one, and its log
//! says what happened.

use crate::it::fleet::{Lab, anomalies, exchanges, train};
use crate::it::step::tiny;
use lingot_device::throttled::{Fault, Throttle};
use lingot_model::random::Stream;
use lingot_spec::event::Event;
use lingot_train::checkpoint::newest;
use lingot_train::config::{self, Resolved};
use lingot_train::record::log;
use lingot_train::step::Summary;
use std::path::Path;

const DRILLS: u64 = 100;
const STEPS: u64 = 12;

/// What happens to whom in one drill. The first device stays well, unless all are to be lost.
struct Drill {
    strategy: &'static str,
    devices: usize,
    throttles: Vec<Throttle>,
    /// The last device, while the run waits for a checkpoint.
    at_checkpoint: Option<Fault>,
    /// The step after which another device is added.
    adds: Option<u64>,
    is_killed: bool,
    all_die: bool,
}

impl Drill {
    fn calm((strategy, devices): (&'static str, usize)) -> Drill {
        let throttles = vec![Throttle::default(); devices];
        let (at_checkpoint, adds) = (None, None);
        Drill { strategy, devices, throttles, at_checkpoint, adds, is_killed: false, all_die: false }
    }

    fn draw(number: u64) -> Drill {
        let mut stream = Stream::new(&[number, 77]);
        let mut below = |bound: u64| (stream.uniform() * bound as f64) as u64;
        let strategy = ["every_step", "edit", "a_edit"][below(3) as usize];
        // Apart, the batch is divided equally.
        let devices = if strategy == "every_step" { 2 + below(3) } else { 2 * (1 + below(2)) } as usize;
        let all_die = below(10) == 0;
        let throttle = |device: usize| {
            // Ops and copies: some five in a hundred are copies, the exchange between host and device.
            let at = 1 + below(5000);
            let fault = match below(6) {
                _ if all_die => Some(Fault::Dies),
                _ if device == 0 => None,
                0 | 1 => Some(Fault::Dies),
                2 => Some(Fault::Hangs),
                3 => Some(Fault::Slows(0.1)),
                4 => Some(Fault::Corrupts),
                _ => None,
            };
            // Every seventh or so runs out of memory: there is room for the model, but not for what a step
            // keeps.
            let memory_bytes = (device > 0 && below(7) == 0).then_some(400_000);
            Throttle { fault: fault.map(|fault| (at, fault)), memory_bytes, ..Throttle::default() }
        };
        let throttles = (0..devices).map(throttle).collect();
        let faults = [Fault::Dies, Fault::Hangs, Fault::Slows(0.2), Fault::Corrupts];
        let at_checkpoint = (below(3) == 0).then(|| faults[below(4) as usize]);
        let adds = (below(3) == 0).then(|| 1 + below(6));
        Drill { strategy, devices, throttles, at_checkpoint, adds, is_killed: below(4) == 0, all_die }
    }

    /// The text of the run's file, with one device more once it was added.
    fn text(&self, folder: &Path, is_added: bool) -> String {
        let devices = self.devices + usize::from(is_added);
        let names: Vec<String> = (0..devices).map(|device| format!("d{device}")).collect();
        let more = [
            format!("devices={names:?}"),
            "batch.micro=1".into(),
            // Apart, one more could not divide the batch; only the list of an edited file is followed.
            format!("sync.strategy={}", if is_added { "every_step" } else { self.strategy }),
            "sync.warmup_steps=3".into(),
            "sync.every=2".into(),
            "sync.period_s=0.01".into(),
            "sync.least_steps=4".into(),
            "sync.deadline_s=0.3".into(),
            "checkpoint.every=4".into(),
        ];
        tiny(folder, &more.each_ref().map(String::as_str)).toml
    }

    fn resolved(&self, folder: &Path) -> Resolved {
        let file = folder.join("drill.toml");
        std::fs::write(&file, self.text(folder, false)).unwrap();
        config::load(&file, &[]).unwrap()
    }

    /// The run, begun again after a kill or when all devices were lost.
    fn run(&self, folder: &Path) -> Summary {
        std::fs::create_dir_all(folder).unwrap();
        let resolved = self.resolved(folder);
        let lab = Lab::default();
        let throttles = self.throttles.clone();
        let index = |name: &str| name[1..].parse::<usize>().unwrap();
        let open = lab.opener(move |name| throttles.get(index(name)).copied().unwrap_or_default());
        let mut listen = |event: &Event| match event {
            Event::Checkpoint(_) if !self.all_die => {
                if let Some(fault) = self.at_checkpoint {
                    lab.controls(&format!("d{}", self.devices - 1)).set(fault);
                }
            }
            Event::Step(step) if self.adds == Some(step.step) => {
                std::fs::write(folder.join("drill.toml"), self.text(folder, true)).unwrap();
            }
            _ => {}
        };
        let first = train(&resolved, open, &mut listen);
        lab.recover_all();
        if self.is_killed {
            let kept = newest::list(&folder.join("checkpoints")).unwrap();
            for (_, newer) in kept.iter().skip(1) {
                std::fs::remove_dir_all(newer).unwrap();
            }
        }
        match first {
            Ok(summary) if !self.is_killed => summary,
            Err(error) if !self.all_die => panic!("{error}"),
            _ => {
                let resolved = self.resolved(folder);
                train(&resolved, Lab::default().opener(|_| Throttle::default()), &mut |_| ()).unwrap()
            }
        }
    }
}

#[test]
fn a_hundred_random_mishaps_cost_time_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let cases = [("every_step", 2), ("edit", 2), ("edit", 4), ("a_edit", 2), ("a_edit", 4)];
    let calm =
        cases.map(|case| (case, Drill::calm(case).run(&home.path().join(format!("{}-{}", case.0, case.1)))));
    let lost: usize = std::thread::scope(|scope| {
        let (home, calm) = (home.path(), &calm);
        let quarter = |from: u64| {
            scope.spawn(move || {
                (from..DRILLS).step_by(4).map(|number| check(number, home, calm)).sum::<usize>()
            })
        };
        let quarters: Vec<_> = (0..4).map(quarter).collect();
        quarters.into_iter().map(|quarter| quarter.join().unwrap()).sum()
    });
    assert!(lost > 50, "only {lost} devices were lost: the drills drill nothing");
}

/// One drill; how many devices were lost.
fn check(number: u64, home: &Path, calm: &[((&str, usize), Summary)]) -> usize {
    let folder = home.join(format!("drill-{number}"));
    let drill = Drill::draw(number);
    let strategy = drill.strategy;
    let summary = drill.run(&folder);
    let is_apart = strategy != "every_step";
    let same = |case: &(&str, usize)| case.0 == strategy && (!is_apart || case.1 == drill.devices);
    let (_, undisturbed) = calm.iter().find(|(case, _)| same(case)).unwrap();
    assert_eq!((summary.step, summary.tokens), (STEPS, undisturbed.tokens), "drill {number}, {strategy}");
    let (calm, found) = (undisturbed.held_out_loss.unwrap(), summary.held_out_loss.unwrap());
    // In step only the order of sums differs. Apart, fewer workers take more steps of their own one after the
    // other, so a run may end better than the undisturbed one; what a bad worker spoils is bounded.
    let (least, most) = if is_apart { (0.8, 1.02) } else { (0.999, 1.001) };
    let ratio = found / calm;
    assert!(least < ratio && ratio < most, "drill {number}, {strategy}: {found}, undisturbed {calm}");
    let events = log::read(&folder).unwrap();
    let steps: Vec<u64> =
        events.iter().filter(|event| matches!(event, Event::Step(_))).map(Event::step).collect();
    assert!(steps.is_sorted() && steps.last() == Some(&STEPS), "drill {number}: {steps:?}");
    if !is_apart {
        assert_eq!(steps, (1..=STEPS).collect::<Vec<u64>>(), "drill {number}");
    }
    for exchange in exchanges(&folder).iter().filter(|exchange| !exchange.pieces.is_empty()) {
        let micros: usize = exchange.pieces.iter().map(|piece| piece.micros).sum();
        assert_eq!(micros, 8, "drill {number}: {exchange:?}");
    }
    let ledger = events.iter().rev().find_map(|event| match event {
        Event::Ledger(ledger) => Some(ledger),
        _ => None,
    });
    let ledger = ledger.unwrap();
    assert_eq!(ledger.tokens, summary.tokens, "drill {number}");
    for device in &ledger.devices {
        assert!(device.seconds() <= ledger.seconds + 1e-6, "drill {number}: {device:?}");
    }
    let lost = anomalies(&folder, "device_lost");
    assert!(lost.iter().all(|reason| reason.contains(" in step ")), "drill {number}: {lost:?}");
    lost.len()
}
