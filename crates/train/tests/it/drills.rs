//! A hundred random mishaps: devices that die, hang, slow down, give nonsense or run out of memory, at random moments,
//! and kills. Each run ends by itself, with every token trained on once and a model as good as the undisturbed one.

use crate::it::fleet::{Lab, anomalies, exchanges, train};
use crate::it::step::tiny;
use lingot_device::throttled::{Fault, Throttle};
use lingot_model::random::Stream;
use lingot_spec::event::Event;
use lingot_train::config::Resolved;
use lingot_train::step::Summary;
use lingot_train::{checkpoints, log};
use std::path::Path;

const DRILLS: u64 = 100;
const STEPS: u64 = 12;

/// What happens to whom in one drill. The first device stays well, unless all are to be lost.
struct Drill {
    devices: usize,
    throttles: Vec<Throttle>,
    is_killed: bool,
    all_die: bool,
}

impl Drill {
    fn draw(number: u64) -> Drill {
        let mut stream = Stream::new(&[number, 77]);
        let mut below = |bound: u64| (stream.uniform() * bound as f64) as u64;
        let devices = 2 + below(3) as usize;
        let all_die = below(10) == 0;
        let throttle = |device: usize| {
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
            // Every seventh or so runs out of memory: there is room for the model, but not for what a step keeps.
            let memory_bytes = (device > 0 && below(7) == 0).then_some(400_000);
            Throttle { fault: fault.map(|fault| (at, fault)), memory_bytes, ..Throttle::default() }
        };
        let throttles = (0..devices).map(throttle).collect();
        Drill { devices, throttles, is_killed: below(4) == 0, all_die }
    }

    fn resolved(&self, folder: &Path) -> Resolved {
        let names: Vec<String> = (0..self.devices).map(|device| format!("d{device}")).collect();
        let more = [
            format!("devices={names:?}"),
            "batch.micro=1".into(),
            "sync.deadline_s=0.3".into(),
            "checkpoint.every=4".into(),
        ];
        tiny(folder, &more.each_ref().map(String::as_str))
    }

    /// The run, begun again after a kill or when all devices were lost.
    fn run(&self, folder: &Path) -> Summary {
        let resolved = self.resolved(folder);
        let lab = Lab::default();
        let throttles = self.throttles.clone();
        let index = |name: &str| name[1..].parse::<usize>().unwrap();
        let open = lab.opener(move |name| throttles[index(name)]);
        let first = train(&resolved, open, &mut |_| ());
        lab.recover_all();
        if self.is_killed {
            let kept = checkpoints::list(&folder.join("checkpoints")).unwrap();
            for (_, newer) in kept.iter().skip(1) {
                std::fs::remove_dir_all(newer).unwrap();
            }
        }
        match first {
            Ok(summary) if !self.is_killed => summary,
            Err(error) if !self.all_die => panic!("{error}"),
            _ => train(&resolved, Lab::default().opener(|_| Throttle::default()), &mut |_| ()).unwrap(),
        }
    }
}

#[test]
fn a_hundred_random_mishaps_cost_time_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let calm = Drill { devices: 1, throttles: vec![Throttle::default()], is_killed: false, all_die: false };
    let undisturbed = calm.run(&home.path().join("calm"));
    let lost: usize = std::thread::scope(|scope| {
        let (home, undisturbed) = (home.path(), &undisturbed);
        let quarter = |from: u64| {
            scope.spawn(move || {
                (from..DRILLS).step_by(4).map(|number| check(number, home, undisturbed)).sum::<usize>()
            })
        };
        let quarters: Vec<_> = (0..4).map(quarter).collect();
        quarters.into_iter().map(|quarter| quarter.join().unwrap()).sum()
    });
    assert!(lost > 50, "only {lost} devices were lost: the drills drill nothing");
}

/// One drill; how many devices were lost.
fn check(number: u64, home: &Path, undisturbed: &Summary) -> usize {
    let folder = home.join(format!("drill-{number}"));
    std::fs::create_dir_all(&folder).unwrap();
    let drill = Drill::draw(number);
    let summary = drill.run(&folder);
    assert_eq!((summary.step, summary.tokens), (STEPS, undisturbed.tokens), "drill {number}");
    let (calm, found) = (undisturbed.held_out_loss.unwrap(), summary.held_out_loss.unwrap());
    assert!((found / calm - 1.0).abs() < 1e-3, "drill {number}: {found}, undisturbed {calm}");
    let steps: Vec<u64> = log::read(&folder)
        .unwrap()
        .iter()
        .filter(|event| matches!(event, Event::Step(_)))
        .map(Event::step)
        .collect();
    assert_eq!(steps, (1..=STEPS).collect::<Vec<u64>>(), "drill {number}");
    for exchange in exchanges(&folder) {
        let micros: usize = exchange.pieces.iter().map(|piece| piece.micros).sum();
        assert_eq!(micros, 8, "drill {number}: {exchange:?}");
    }
    anomalies(&folder, "device_lost").len()
}
