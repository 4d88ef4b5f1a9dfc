//! The suite on the definitions themselves, on the CPU, and on the CPU with other numbers of threads.

use lingot_device::conformance::Verdict;
use lingot_device::cpu::Cpu;
use lingot_device::reference::Reference;
use lingot_device::{Backend, Device, Kind, Op, Precision, Result, Slot, Wrapper, conformance};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

#[test]
fn the_definitions_rounded_to_f32_pass() {
    assert_passes(&Device::new(Reference::new()));
}

#[test]
fn the_cpu_passes() {
    assert_passes(&Device::new(Cpu::new(2)));
}

#[test]
fn the_cpu_gives_the_same_bits_with_one_two_and_three_threads() {
    let alone = conformance::outputs(&Device::new(Cpu::new(1))).unwrap();
    for threads in [2, 3] {
        let together = conformance::outputs(&Device::new(Cpu::new(threads))).unwrap();
        assert_eq!(alone.len(), together.len());
        for ((name, alone), (_, together)) in alone.iter().zip(&together) {
            assert!(alone == together, "{name}: one thread and {threads} differ");
        }
    }
}

#[test]
fn the_suite_notices_every_op_that_a_device_leaves_out() {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let honest = Device::new(Forgetful { inner: Reference::new(), forgets: "nothing", seen: seen.clone() });
    let honest = conformance::outputs(&honest).unwrap();
    let ops = seen.lock().unwrap().clone();
    assert_eq!(ops.len(), Op::NAMES.len(), "the suite runs {ops:?}");
    for forgets in ops {
        let device = Device::new(Forgetful { inner: Reference::new(), forgets, seen: seen.clone() });
        assert!(conformance::outputs(&device).unwrap() != honest, "the suite does not miss {forgets}");
    }
}

/// A device that never runs one op.
struct Forgetful {
    inner: Reference,
    forgets: &'static str,
    seen: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Wrapper for Forgetful {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    /// Zeros, so that whole numbers that were not computed are at least valid indices.
    fn allocate(&self, bytes: usize) -> Result<Slot> {
        let slot = self.inner().allocate(bytes)?;
        self.inner().write(&slot, 0, &vec![0; bytes])?;
        Ok(slot)
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.seen.lock().unwrap().insert(op.name());
        if op.name() == self.forgets { Ok(()) } else { self.inner().run(op) }
    }
}

#[test]
fn the_definitions_rounded_to_bf16_pass() {
    assert_passes_in_bf16(&Device::new(Reference::new()));
}

#[test]
fn the_cpu_passes_on_bf16_tensors() {
    assert_passes_in_bf16(&Device::new(Cpu::new(2)));
}

#[test]
fn the_cpu_gives_the_same_bits_on_bf16_tensors_with_one_two_and_three_threads() {
    let outputs = |threads| conformance::outputs_of(&Device::new(Cpu::new(threads)), Kind::Bf16).unwrap();
    let alone = outputs(1);
    for threads in [2, 3] {
        for ((name, alone), (_, together)) in alone.iter().zip(&outputs(threads)) {
            assert!(alone == together, "{name}: one thread and {threads} differ");
        }
    }
}

fn assert_passes_in_bf16(device: &Device) {
    assert_all_pass(&conformance::check_bf16(device, &mut |_, _| ()).unwrap());
}

fn assert_passes(device: &Device) {
    assert_all_pass(&conformance::check(device).unwrap());
}

/// Errors with all that failed, and how far it is off.
pub(crate) fn assert_all_pass(verdicts: &[Verdict]) {
    assert!(verdicts.len() > 300, "{} verdicts", verdicts.len());
    let failures: Vec<String> = verdicts
        .iter()
        .filter(|verdict| !verdict.passed)
        .map(|v| format!("{} {}: {:.1} units, bound {:.1}", v.op, v.case, v.error_units, v.bound_units))
        .collect();
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), verdicts.len(), failures.join("\n"));
}

#[test]
fn the_definitions_and_the_cpu_pass_in_bf16_and_differ_from_f32() {
    let f32 = conformance::outputs(&Device::new(Cpu::new(2))).unwrap();
    let cpu = Device::new(Cpu::with_precision(2, Precision::Bf16));
    assert!(conformance::outputs(&cpu).unwrap() != f32, "nothing was rounded");
    for device in [Device::new(Reference::with_precision(Precision::Bf16)), cpu] {
        let verdicts = conformance::check_in(&device, Precision::Bf16, &mut |_, _| ()).unwrap();
        let failures: Vec<_> = verdicts.iter().filter(|verdict| !verdict.passed).collect();
        assert!(failures.is_empty(), "{} of {} fail: {failures:#?}", failures.len(), verdicts.len());
        // What is rounded cannot pass for f32.
        let verdicts = conformance::check(&device).unwrap();
        assert!(verdicts.iter().any(|verdict| !verdict.passed));
    }
}
