//! The torch backend on the CPU, where a torch is installed: `LINGOT_TORCH` or the active Python environment.

use crate::conformance::assert_all_pass;
use lingot_device::op::Flip;
use lingot_device::torch::{Options, Torch};
use lingot_device::{Device, Error, Kind, Precision, conformance, ops};

/// The device, or a line that says why there is none.
fn open(options: Options) -> Option<Device> {
    match Torch::open("torch:cpu", options) {
        Ok(backend) => Some(Device::new(backend)),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn assert_conforms(options: Options) {
    let Some(device) = open(options) else { return };
    assert_all_pass(&conformance::check_in(&device, options.precision, &mut |_, _| ()).unwrap());
}

#[test]
fn torch_multiplies_flips_and_adds() {
    let Some(device) = open(Options::default()) else { return };
    let a = device.floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], Kind::F32).unwrap();
    let out = ops::matmul(&a, &a, Flip::B).unwrap();
    assert_eq!(out.to_floats().unwrap(), [14.0, 32.0, 32.0, 77.0]);
    assert_eq!(device.zeros(&[3], Kind::F32).unwrap().to_floats().unwrap(), [0.0; 3]);
}

#[test]
fn torch_passes_the_suite_in_f32() {
    assert_conforms(Options::default());
}

#[test]
fn torch_passes_the_suite_without_what_only_some_chips_have() {
    assert_conforms(Options { composed_only: true, ..Options::default() });
}

#[test]
fn torch_passes_the_suite_in_bf16() {
    for composed_only in [false, true] {
        assert_conforms(Options { precision: Precision::Bf16, composed_only, ..Options::default() });
    }
}

#[test]
fn torch_passes_the_suite_on_bf16_tensors() {
    for composed_only in [false, true] {
        let Some(device) = open(Options { composed_only, ..Options::default() }) else { return };
        let verdicts = conformance::check_bf16(&device, &mut |_, _| ()).unwrap();
        let failures: Vec<_> = verdicts.iter().filter(|verdict| !verdict.passed).collect();
        assert!(failures.is_empty(), "{} of {} fail: {failures:#?}", failures.len(), verdicts.len());
    }
}

/// Where experts' rows end is read once and remembered, until it is written to.
#[test]
fn ends_that_change_are_read_again() {
    let Some(device) = open(Options::default()) else { return };
    let x = device.floats(&[1.0, 1.0], &[2, 1], Kind::F32).unwrap();
    let w = device.floats(&[10.0, 20.0], &[2, 1, 1], Kind::F32).unwrap();
    let ends = device.integers(&[1, 2], &[2]).unwrap();
    let all_to = |first: i32| device.integers(&[first, 2], &[2]).unwrap();
    let product = || ops::grouped_matmul(&x, &w, &ends, false).unwrap().to_floats().unwrap();
    assert_eq!(product(), [10.0, 20.0]);
    ends.write_integers(&[2, 2]).unwrap();
    assert_eq!(product(), [10.0, 10.0]);
    ops::copy(&ends, &all_to(0)).unwrap();
    assert_eq!(product(), [20.0, 20.0]);
    ops::fill(&ends, 2.0).unwrap();
    assert_eq!(product(), [10.0, 10.0]);
    ops::fill(&ends, 0.0).unwrap();
    assert_eq!(product(), [0.0, 0.0]);
    ends.write_integers(&[2, 1]).unwrap();
    let refused = ops::grouped_matmul(&x, &w, &ends, false).unwrap_err().to_string();
    assert!(refused.contains("`grouped_matmul`: ends are [2, 1]"), "{refused}");
}

#[test]
fn memory_is_counted_and_its_lack_told_with_both_numbers() {
    let Some(device) = open(Options::default()) else { return };
    let kept = device.zeros(&[256], Kind::F32).unwrap();
    drop(device.zeros(&[1024], Kind::F32).unwrap());
    let used = device.memory_in_use();
    assert_eq!((used.now_bytes, used.peak_bytes), (1024, 1024 + 4096));
    device.restart_peak();
    assert_eq!(device.memory_in_use().peak_bytes, 1024);
    let found = device.empty(&[1 << 44], Kind::F32).err();
    let has_bytes = device.info().memory_bytes - 1024;
    let wanted = Error::OutOfMemory { device: "torch:cpu".into(), needs_bytes: 1 << 46, has_bytes };
    assert_eq!(found, Some(wanted));
    drop(kept);
    assert_eq!(device.memory_in_use().now_bytes, 0);
}
