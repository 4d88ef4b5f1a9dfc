//! Kernels of our own on the host: the same source, compiled by a C++ compiler, in place of torch's operators
//! on `torch:cpu`.

use crate::conformance::assert_all_pass;
use lingot_device::cpu::Cpu;
use lingot_device::op::AdamRule;
use lingot_device::torch::{Options, Torch};
use lingot_device::{Device, Kind, Precision, Result, Tensor, conformance, ops};
use std::process::Command;

#[path = "../chip/stand_in.rs"]
pub(crate) mod stand_in;

/// A device whose ops run by kernels where there are some.
pub(crate) fn open(name: &str, options: &[&str], precision: Precision) -> Option<Device> {
    let stand_in = Some(stand_in::build(name, options)?);
    match Torch::open("torch:cpu", Options { precision, stand_in, ..Options::default() }) {
        Ok(torch) => Some(Device::new(torch)),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn kernels_pass_the_suite_in_f32_and_on_bf16_tensors() {
    let Some(device) = open("plain", &[], Precision::F32) else { return };
    let routes = device.routes();
    let served = routes.iter().filter(|line| line.ends_with(": kernel of ours")).count();
    assert!(served >= 7, "{routes:#?}");
    let left_out = routes.iter().any(|line| line.contains("units") || line.contains("kernel `"));
    assert!(!left_out, "{routes:#?}");
    assert_all_pass(&conformance::check(&device).unwrap());
    let device = open("plain-bf16", &[], Precision::Bf16).unwrap();
    assert_all_pass(&conformance::check_bf16(&device, &mut |_, _| ()).unwrap());
}

/// AMD's chips for servers have warps of 64.
#[test]
fn kernels_pass_the_suite_with_warps_of_64() {
    let Some(device) = open("wide", &["-DWARP=64"], Precision::F32) else { return };
    assert_all_pass(&conformance::check(&device).unwrap());
    assert_all_pass(&conformance::check_bf16(&device, &mut |_, _| ()).unwrap());
}

/// What a thread reads of another one without waiting for it depends on who comes first.
#[test]
fn the_order_in_which_threads_run_changes_no_bit() {
    let Some(ascending) = open("ascending", &[], Precision::F32) else { return };
    let descending = open("descending", &["-DSTAND_IN_REVERSED"], Precision::F32).unwrap();
    for kind in [Kind::F32, Kind::Bf16] {
        let [one, other] =
            [&ascending, &descending].map(|device| conformance::outputs_of(device, kind).unwrap());
        for ((name, one), (_, other)) in one.iter().zip(&other) {
            assert!(one == other, "{name} of {} depends on the order of the threads", kind.name());
        }
    }
}

/// Chips of AMD's for servers and for desktops, whose warps have 64 and 32 lanes.
#[test]
fn amds_compiler_takes_the_kernels() {
    for chip in ["gfx942", "gfx1100"] {
        let target = format!("--offload-arch={chip}");
        let device_only = ["-x", "hip", &target, "--offload-device-only", "--no-gpu-bundle-output"];
        let no_headers = ["-nogpuinc", "-nogpulib", "-nostdinc", "-O3", "-c"];
        let options = [&device_only[..], &no_headers].concat();
        if let Some(built) = stand_in::compiled(&format!("kernels-{chip}.o"), "clang++-19", &options, "") {
            assert!(std::fs::read(built).unwrap().starts_with(b"\x7fELF"), "{chip}");
        }
    }
}

/// Accesses beyond an operand, and races: on threads of the system, which are slow to start.
#[test]
fn sanitizers_find_nothing_in_the_kernels() {
    let drill = include_str!("../kernels/drill.cpp");
    for (name, options) in [
        ("memory", &["-fsanitize=address,undefined"][..]),
        ("races", &["-fsanitize=thread", "-DSTAND_IN_THREADS"]),
    ] {
        let options = [&["-O1", "-g", "-fno-strict-aliasing"], options].concat();
        let Some(built) = stand_in::compiled(&format!("drill-{name}"), "g++", &options, drill) else {
            return;
        };
        let output = Command::new(built).env("ASAN_OPTIONS", "detect_stack_use_after_return=0").output();
        let output = output.unwrap();
        let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        let is_clean = output.status.success() && told.trim() == "all kernels have run";
        assert!(is_clean, "{name}: {}: {told}", output.status);
    }
}

/// A view of some of a longer tensor, which begins `first` elements after a multiple of 16 bytes.
fn view(device: &Device, shape: &[usize], kind: Kind, first: usize) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..count + first).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    Ok(device.floats(&numbers, &[count + first, 1], kind)?.rows(first, count).reshape(shape))
}

/// The outputs of row-wise ops on views that begin `first` elements after a multiple of 16 bytes.
fn on_views(device: &Device, kind: Kind, width: usize, first: usize) -> Result<Vec<Vec<f32>>> {
    let view = |shape: &[usize], kind| view(device, shape, kind, first);
    let (x, d_out, scale) = (view(&[6, width], kind)?, view(&[6, width], kind)?, view(&[width], kind)?);
    let d_scale = device.zeros(&[width], Kind::F32)?;
    let d_x = ops::rms_norm_grad(&d_out, &x, &scale, 1e-6, None, &d_scale)?;
    let order = device.integers(&[3, 1, 11, 0, 5, 8, 2, 4, 10, 6, 7, 9], &[12])?;
    let sent = ops::dispatch(&x, &order, 2)?;
    let places = device.integers(&[3, 1, 6, 0, 7, 4, 9, 10, 5, 11, 8, 2], &[6, 2])?;
    let onto = view(&[6, width], kind)?;
    ops::combine_onto(&onto, &sent, &places)?;
    let turned = view(&[6, 1, width], kind)?;
    let positions = device.integers(&[0, 1, 5, 100_000, 7, 1_000_000], &[6])?;
    ops::rope(&turned, &positions, ops::Rotation { width: width / 2 * 2, theta: 1e4 }, false)?;
    let sum = view(&[6, width], kind)?;
    ops::add(&sum, &x)?;
    let squares = device.zeros(&[1], Kind::F32)?;
    ops::sum_of_squares(&x, &squares)?;
    let wide = device.zeros(&[6, width], Kind::F32)?;
    ops::copy(&wide, &x)?;
    let normed = ops::rms_norm(&x, &scale, 1e-6)?;
    let mut all = vec![normed, d_x, d_scale, sent, onto, turned, sum, squares, wide];
    all.extend(updated(device, kind, 6 * width, first)?);
    all.iter().map(Tensor::to_floats).collect()
}

/// Parameters and their working copy after an update of views.
fn updated(device: &Device, kind: Kind, count: usize, first: usize) -> Result<[Tensor; 2]> {
    let sums = || view(device, &[count], Kind::F32, first);
    let (parameter, gradient, mean, working) =
        (sums()?, sums()?, sums()?, view(device, &[count], kind, first)?);
    let second = device.zeros(&[count], Kind::F32)?;
    let squares = device.floats(&[4.0], &[1], Kind::F32)?;
    let rule =
        AdamRule { rate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-3, decay: 0.1, step: 3, clip: 1.0 };
    let spans = [0..1, 3..count / 2];
    ops::adamw(&parameter, &gradient, [&mean, &second], &squares, rule, &spans, Some(&working))?;
    Ok([parameter, working])
}

#[test]
fn views_that_begin_anywhere_give_what_the_cpu_gives() {
    let Some(device) = open("views", &[], Precision::F32) else { return };
    let cpu = Device::new(Cpu::new(2));
    for (kind, unit) in [(Kind::F32, 1e-5), (Kind::Bf16, 1.0 / 64.0)] {
        for width in [8, 33, 64, 136] {
            for first in [0, 1, 4, 8] {
                let [found, wanted] =
                    [&device, &cpu].map(|device| on_views(device, kind, width, first).unwrap());
                for (output, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                    let size = wanted.iter().fold(0.0, |size: f32, x| size.max(x.abs()));
                    let worst = found.iter().zip(wanted).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                    let what = format!("output {output}, {}, width {width} from {first} on", kind.name());
                    assert!(worst <= unit * size, "{what}: off by {worst}, size {size}");
                }
            }
        }
    }
}
