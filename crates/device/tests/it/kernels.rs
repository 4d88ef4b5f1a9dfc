//! Kernels of our own on the host: the same source, compiled by a C++ compiler, in place of torch's operators
//! on `torch:cpu`.

use crate::conformance::assert_all_pass;
use lingot_device::torch::{Options, Torch};
use lingot_device::{Device, Precision, conformance, kernels};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library of all kernels for the host, built with some options of the compiler; or a line that says why
/// there is none.
fn stand_in(name: &str, options: &[&str]) -> Option<&'static Path> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Aside and then in place, so that two builds at once do not meet in one file.
    let aside = |end: &str| folder.join(format!("kernels-{name}-{}.{end}", std::process::id()));
    let (text, built) = (aside("cpp"), aside("so"));
    std::fs::write(&text, kernels::source()).unwrap();
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let compiled = Command::new("g++")
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-fno-strict-aliasing", "-Wall", "-Werror"])
        .args(options)
        .arg("-I")
        .arg(headers)
        .arg(&text)
        .arg("-o")
        .arg(&built)
        .output();
    let library: PathBuf = folder.join(format!("kernels-{name}.so"));
    match compiled {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: g++: {error}");
            return None;
        }
    }
    std::fs::rename(built, &library).unwrap();
    std::fs::remove_file(text).unwrap();
    Some(Box::leak(library.into_boxed_path()))
}

/// What kernels serve, in the words of `lingot devices -v`.
const FAMILIES: [&str; 6] =
    ["SwiGLU", "routing", "sort by expert", "the head's loss", "embedding's gradient", "balance bias"];

/// A device whose ops run by kernels where there are some.
fn open(name: &str, options: &[&str], precision: Precision) -> Option<Device> {
    let stand_in = Some(stand_in(name, options)?);
    match Torch::open("torch:cpu", Options { precision, stand_in, ..Options::default() }) {
        Ok(torch) => {
            let routes = torch.routes();
            for family in FAMILIES {
                assert!(routes.contains(&format!("{family}: kernel of ours")), "{family}: {routes:#?}");
            }
            Some(Device::new(torch))
        }
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
    assert!(routes.iter().any(|line| line == "SwiGLU: kernel of ours"), "{routes:#?}");
    let left_out = routes.iter().any(|line| line.contains("units") || line.contains("no kernel"));
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
