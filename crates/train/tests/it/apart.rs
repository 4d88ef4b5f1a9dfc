//! Devices that train alone and meet (EDiT, A-EDiT), each in its own thread: they agree to the bit, resume to
//! the bit, and lose nothing that was agreed on when devices come and go.

use crate::it::fleet::{Lab, anomalies, exchanges, train};
use crate::it::step::{contents, ledgers, tiny};
use lingot_device::throttled::{Fault, Throttle};
use lingot_spec::event::{Event, Exchange};
use lingot_train::checkpoint::newest;
use lingot_train::config::Resolved;
use lingot_train::step::Summary;
use std::path::Path;

pub(crate) const APART: [&str; 7] = [
    r#"devices=["a", "b"]"#,
    "batch.micro=1",
    "sync.warmup_steps=4",
    "sync.every=2",
    "sync.period_s=0.002",
    "sync.least_steps=4",
    "sync.deadline_s=30",
];

pub(crate) fn apart(folder: &Path, more: &[&str]) -> Resolved {
    tiny(folder, &[&APART, more].concat())
}

pub(crate) fn plain(resolved: &Resolved) -> Summary {
    train(resolved, Lab::default().opener(|_| Throttle::default()), &mut |_| ()).unwrap()
}

#[test]
fn devices_apart_learn_and_every_sample_is_read_once() {
    for strategy in ["sync.strategy=edit", "sync.strategy=a_edit"] {
        let [together, alone] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let in_step = plain(&apart(together.path(), &[]));
        let summary = plain(&apart(alone.path(), &[strategy]));
        assert_eq!((summary.step, summary.tokens), (in_step.step, in_step.tokens), "{strategy}");
        assert!(summary.held_out_loss.unwrap() < summary.first_held_out_loss.unwrap(), "{strategy}");
        let found = exchanges(alone.path());
        let (in_step, apart): (Vec<Exchange>, Vec<Exchange>) =
            found.into_iter().partition(|exchange| !exchange.pieces.is_empty());
        assert!(in_step.len() == 4 && apart.len() >= 2, "{strategy}: {} and {}", in_step.len(), apart.len());
        let steps: u64 = apart.iter().flat_map(|meeting| &meeting.workers).map(|share| share.own_steps).sum();
        assert_eq!(steps, 2 * 8, "two devices, half a batch each, eight steps");
        for meeting in &apart {
            assert!(meeting.bytes > 0 && !meeting.reason.is_empty(), "{meeting:?}");
            assert_eq!(meeting.bytes, meeting.predicted_bytes);
            let weights: f64 = meeting.workers.iter().map(|share| share.weight).sum();
            assert!((weights - 1.0).abs() < 1e-4, "{weights}");
        }
    }
}

#[test]
fn emulated_workers_and_devices_of_their_own_learn_the_same() {
    let [emulated, real] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let edit = "sync.strategy=edit";
    let of_devices = plain(&apart(real.path(), &[edit]));
    let more = [&APART[1..], &[edit, "sync.virtual_speeds=[1.0, 1.0]"]].concat();
    let of_workers = crate::it::step::run(&tiny(emulated.path(), &more), 1);
    let (a, b) = (of_devices.held_out_loss.unwrap(), of_workers.held_out_loss.unwrap());
    assert!((a / b - 1.0).abs() < 1e-4, "{a} {b}");
}

#[test]
fn a_resumed_run_of_devices_apart_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["sync.strategy=edit", "checkpoint.every=2"];
    let uninterrupted = contents(&plain(&apart(folder.path(), &more)));
    let kept = newest::list(&folder.path().join("checkpoints")).unwrap();
    let last = kept.iter().position(|(step, _)| *step > 4).unwrap();
    // The kill: all after the first checkpoint that was made apart is lost.
    for (_, newer) in &kept[last + 1..] {
        std::fs::remove_dir_all(newer).unwrap();
    }
    let resumed = plain(&apart(folder.path(), &more));
    assert!(kept[last].0 < resumed.step);
    assert!(contents(&resumed) == uninterrupted);
}

#[test]
fn a_device_that_is_lost_between_meetings_costs_what_it_learnt_alone() {
    for strategy in ["sync.strategy=edit", "sync.strategy=a_edit"] {
        for fault in [Fault::Dies, Fault::Hangs, Fault::Corrupts] {
            let folder = tempfile::tempdir().unwrap();
            let more = [r#"devices=["a", "b"]"#, strategy, "stop.steps=24", "sync.deadline_s=1"];
            let lab = Lab::default();
            let controls = lab.clone();
            let mut is_set = false; // By time, meetings need not fall on a certain step.
            let mut listen = |event: &Event| {
                if let Event::Step(step) = event
                    && step.step >= 8
                    && !is_set
                {
                    is_set = true;
                    controls.controls("b").set(fault);
                }
            };
            let summary =
                train(&apart(folder.path(), &more), lab.opener(|_| Throttle::default()), &mut listen)
                    .unwrap();
            lab.recover_all();
            assert_eq!((summary.step, summary.tokens), (24, 24 * 8 * 32), "{strategy} {fault:?}");
            let lost = anomalies(folder.path(), "device_lost");
            assert!(lost.iter().any(|reason| reason.starts_with("b ")), "{strategy} {fault:?}: {lost:?}");
            assert!(summary.held_out_loss.unwrap() < summary.first_held_out_loss.unwrap());
        }
    }
}

#[test]
fn a_device_that_recovers_or_is_added_joins_at_a_meeting() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::default();
    let controls = lab.clone();
    let mut listen = |event: &Event| {
        if let Event::Step(step) = event {
            match step.step {
                6 => controls.controls("b").set(Fault::Hangs),
                12 => controls.controls("b").recover(),
                _ => {}
            }
        }
    };
    let more = ["sync.strategy=edit", "stop.steps=80", "sync.deadline_s=0.5"];
    let summary =
        train(&apart(folder.path(), &more), lab.opener(|_| Throttle::default()), &mut listen).unwrap();
    assert_eq!((summary.step, summary.tokens), (80, 80 * 8 * 32));
    let joined = anomalies(folder.path(), "device_joined");
    assert!(joined.iter().any(|reason| reason.starts_with("b joins")), "{joined:?}");
    let last = exchanges(folder.path()).pop().unwrap();
    assert!(last.workers.iter().all(|share| share.own_steps > 0), "{last:?}");
}

#[test]
fn when_all_are_lost_between_meetings_what_was_agreed_is_kept_and_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let throttle = |_: &str| Throttle { fault: Some((6000, Fault::Dies)), ..Throttle::default() };
    let more = ["sync.strategy=edit", "checkpoint.every=0", "stop.steps=60"];
    let resolved = apart(folder.path(), &more);
    let error = train(&resolved, Lab::default().opener(throttle), &mut |_| ()).unwrap_err();
    assert!(error.kind.is_device() && error.problem.contains("all devices are lost"), "{error}");
    let kept = newest::list(&folder.path().join("checkpoints")).unwrap();
    assert!(kept.last().unwrap().0 > 4, "{kept:?}");
    let summary = plain(&resolved);
    assert_eq!((summary.step, summary.tokens), (60, 60 * 8 * 32));
}

#[test]
fn a_straggler_gets_as_much_time_and_not_as_many_steps() {
    let folder = tempfile::tempdir().unwrap();
    let throttle =
        |name: &str| Throttle { speed: if name == "b" { 0.1 } else { 1.0 }, ..Throttle::default() };
    // Long against a step, also on a machine that has much else to do.
    let more = ["sync.strategy=a_edit", "stop.steps=60", "sync.period_s=0.2"];
    train(&apart(folder.path(), &more), Lab::default().opener(throttle), &mut |_| ()).unwrap();
    let meetings: Vec<Exchange> =
        exchanges(folder.path()).into_iter().filter(|exchange| exchange.pieces.is_empty()).collect();
    let steps = |worker: usize| meetings.iter().map(|meeting| meeting.workers[worker].own_steps).sum::<u64>();
    assert!(steps(0) > steps(1), "{} and {}", steps(0), steps(1));
    let ledger = ledgers(folder.path()).pop().unwrap();
    assert_eq!(ledger.devices.iter().map(|device| device.tokens).sum::<u64>(), ledger.tokens);
}
