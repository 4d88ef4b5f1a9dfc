//! Devices that train alone and meet (EDiT, A-EDiT), each in its own thread: they agree to the bit, resume to the bit,
//! and lose nothing that was agreed on when devices come and go.

use crate::it::fleet::{Lab, anomalies, exchanges, train};
use crate::it::step::{contents, tiny};
use lingot_device::cpu::Cpu;
use lingot_device::op::Op;
use lingot_device::throttled::{Fault, Throttle};
use lingot_device::{Backend, Device, DeviceInfo, Slot};
use lingot_spec::event::{Event, Exchange};
use lingot_train::config::Resolved;
use lingot_train::fleet::Opener;
use lingot_train::step::Summary;
use lingot_train::{checkpoints, log};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

const APART: [&str; 7] = [
    r#"devices=["a", "b"]"#,
    "batch.micro=1",
    "sync.warmup_steps=4",
    "sync.every=2",
    "sync.period_s=0.002",
    "sync.least_steps=4",
    "sync.deadline_s=30",
];

fn apart(folder: &Path, more: &[&str]) -> Resolved {
    tiny(folder, &[&APART, more].concat())
}

fn plain(resolved: &Resolved) -> Summary {
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

/// What a device held after each large write, in their order.
type Written = Arc<Mutex<Vec<Vec<u8>>>>;

/// A device that remembers what was written into its largest tensors: weights, gradients, moments.
struct Recorder {
    inner: Device,
    least_bytes: usize,
    written: Written,
}

impl Backend for Recorder {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn allocate(&self, bytes: usize) -> lingot_device::Result<Slot> {
        self.inner.allocate(bytes)
    }
    fn release(&self, slot: Slot, bytes: usize) {
        self.inner.release(slot, bytes);
    }
    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> lingot_device::Result<()> {
        self.inner.write(slot, offset_bytes, from_host)?;
        if from_host.len() >= self.least_bytes {
            let mut holds = vec![0; from_host.len()];
            self.inner.read(slot, offset_bytes, &mut holds)?;
            self.written.lock().unwrap().push(holds);
        }
        Ok(())
    }
    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> lingot_device::Result<()> {
        self.inner.read(slot, offset_bytes, to_host)
    }
    fn run(&self, op: Op<'_>) -> lingot_device::Result<()> {
        self.inner.run(op)
    }
    fn finish(&self) -> lingot_device::Result<()> {
        self.inner.finish()
    }
}

#[test]
fn after_a_meeting_all_devices_hold_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = apart(folder.path(), &["sync.strategy=edit"]);
    let least_bytes = 4 * resolved.run.model.parameters() as usize;
    let all: Arc<Mutex<BTreeMap<String, Written>>> = Arc::default();
    let held = all.clone();
    let open: Opener = Arc::new(move |name| {
        let written = Written::default();
        held.lock().unwrap().insert(name.into(), written.clone());
        Ok(Device::new(Recorder { inner: Device::new(Cpu::new(1)), least_bytes, written }))
    });
    train(&resolved, open, &mut |_| ()).unwrap();
    let all = all.lock().unwrap();
    let [a, b] = ["a", "b"].map(|name| all[name].lock().unwrap().clone());
    // Four steps in step; weights and both moments; four meetings, the last of which nobody may have heard of.
    assert!(a.len().min(b.len()) >= 4 + 3 + 3, "{} and {}", a.len(), b.len());
    assert!(a.iter().zip(&b).all(|(a, b)| a == b));
    assert!(a.windows(2).filter(|pair| pair[0] != pair[1]).count() >= 8, "they learn");
}

#[test]
fn a_resumed_run_of_devices_apart_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["sync.strategy=edit", "checkpoint.every=2"];
    let uninterrupted = contents(&plain(&apart(folder.path(), &more)));
    let kept = checkpoints::list(&folder.path().join("checkpoints")).unwrap();
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
            let mut listen = |event: &Event| {
                if let Event::Step(step) = event
                    && step.step == 8
                {
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
    assert!(error.is_device && error.problem.contains("all devices are lost"), "{error}");
    let kept = checkpoints::list(&folder.path().join("checkpoints")).unwrap();
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
    let events = log::read(folder.path()).unwrap();
    let ledger = events.iter().rev().find_map(|event| match event {
        Event::Ledger(ledger) => Some(ledger.clone()),
        _ => None,
    });
    let ledger = ledger.unwrap();
    assert_eq!(ledger.devices.iter().map(|device| device.tokens).sum::<u64>(), ledger.tokens);
}
