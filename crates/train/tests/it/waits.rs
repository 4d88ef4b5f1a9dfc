//! How often a step waits for its device: reads and calls of `finish`, counted by a device that stands before
//! the CPU. Each wait leaves an accelerator without work until the host has gone on.

use crate::it::fleet;
use crate::it::step::tiny;
use lingot_device::cpu::Cpu;
use lingot_device::{Backend, Device, Op, Result, Slot, Wrapper};
use lingot_train::config::Resolved;
use lingot_train::{data, step};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What was asked of a device.
#[derive(Default)]
struct Asked {
    /// Reads, and calls of `finish`.
    waits: AtomicU64,
    /// Copies from the host.
    writes: AtomicU64,
    ops: AtomicU64,
}

impl Asked {
    fn counts(&self) -> [u64; 3] {
        [&self.waits, &self.writes, &self.ops].map(|count| count.load(Ordering::Relaxed))
    }
}

struct Counting {
    inner: Device,
    asked: Arc<Asked>,
}

impl Counting {
    fn device(asked: &Arc<Asked>) -> Device {
        Device::new(Counting { inner: Device::new(Cpu::new(1)), asked: asked.clone() })
    }
}

impl Wrapper for Counting {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.asked.waits.fetch_add(1, Ordering::Relaxed);
        self.inner().read(slot, offset_bytes, to_host)
    }

    fn finish(&self) -> Result<()> {
        self.asked.waits.fetch_add(1, Ordering::Relaxed);
        self.inner().finish()
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.asked.writes.fetch_add(1, Ordering::Relaxed);
        self.inner().write(slot, offset_bytes, from_host)
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.asked.ops.fetch_add(1, Ordering::Relaxed);
        self.inner().run(op)
    }
}

/// Waits, copies from the host and ops of one step: what `train` asks more for a run of four steps more, over
/// four. Both runs evaluate and save once, at their end.
fn per_step(more: &[&str], train: impl Fn(&Resolved, &Arc<Asked>)) -> [u64; 3] {
    let [short, long] = [6, 10].map(|steps| {
        let folder = tempfile::tempdir().unwrap();
        let steps = format!("stop.steps={steps}");
        let settings =
            ["evaluation.every=100", "checkpoint.every=100", "schedule.shape=\"constant\"", &steps];
        let asked = Arc::new(Asked::default());
        train(&tiny(folder.path(), &[&settings, more].concat()), &asked);
        asked.counts()
    });
    std::array::from_fn(|index| {
        assert!((long[index] - short[index]).is_multiple_of(4), "steps are not alike: {short:?}, {long:?}");
        (long[index] - short[index]) / 4
    })
}

/// On the one device, which may be divided among emulated workers.
fn on_one(resolved: &Resolved, asked: &Arc<Asked>) {
    let dataset = data::prepare_data(&resolved.run, &|_| ()).unwrap();
    let device = Counting::device(asked);
    step::train(resolved, &dataset, &device, &mut |_| (), &AtomicBool::new(false)).unwrap();
}

#[test]
fn a_step_of_one_device_waits_once_and_takes_one_copy_per_micro_batch() {
    let v1 = ["model.router.score=\"softmax\"", "model.router.selection_bias=false", "model.norm_head=true"];
    for (what, more) in [
        ("v2", &[][..]),
        ("v1", &v1[..]),
        ("multi-token prediction", &["model.mtp_layers=1"]),
        ("bf16", &["device.precision=\"bf16\""]),
        ("recomputed", &["device.recompute=\"block\""]),
    ] {
        for (micro, micros) in [(8, 1), (2, 4)] {
            let micro = format!("batch.micro={micro}");
            let [waits, writes, _] = per_step(&[more, &[&micro]].concat(), on_one);
            assert_eq!((waits, writes), (1, micros), "{what}, {micros} micro-batches");
        }
    }
}

/// The noise of the warm-up is drawn on the host and copied, for each router; there is one.
#[test]
fn a_step_of_the_routing_warmup_waits_once() {
    let [waits, writes, _] = per_step(&["batch.micro=8", "model.router.warmup_steps=90"], on_one);
    assert_eq!((waits, writes), (1, 1 + 1));
}

/// A device of a fleet waits once for the weights, once per micro-batch, which it reports, and twice for
/// gradients and losses.
#[test]
fn a_step_of_a_fleet_waits_for_weights_micro_batches_gradients_and_losses() {
    let train = |resolved: &Resolved, asked: &Arc<Asked>| {
        let asked = asked.clone();
        fleet::train(resolved, Arc::new(move |_| Ok(Counting::device(&asked))), &mut |_| ()).unwrap();
    };
    for (micro, micros) in [(8, 1), (2, 4)] {
        let micro = format!("batch.micro={micro}");
        let [waits, ..] = per_step(&["devices=[\"a\"]", "sync.deadline_s=30", &micro], train);
        assert_eq!(waits, 1 + micros + 2, "{micros} micro-batches");
    }
}

/// A Mixture-of-Experts layer with head norms and a shared expert: 25 ops forward and 38 backward; then the
/// clearing of its norms' gradients and its selection bias.
#[test]
fn a_layer_is_as_few_ops_as_it_was() {
    let ops = |layers: &str| per_step(&["batch.micro=8", "model.shared_experts=1", layers], on_one)[2];
    assert_eq!(ops("model.layers=3") - ops("model.layers=2"), 25 + 38 + 3 + 1);
}
