//! Kernels of our own on the host: the same source, compiled by a C++ compiler, in place of torch's operators
//! on `torch:cpu`.

use crate::conformance::assert_all_pass;
use lingot_device::torch::{Options, Torch};
use lingot_device::{Device, Precision, conformance};

#[path = "../chip/stand_in.rs"]
pub(crate) mod stand_in;

/// What kernels serve, in the words of `lingot devices -v`.
const FAMILIES: [&str; 6] =
    ["SwiGLU", "routing", "sort by expert", "the head's loss", "embedding's gradient", "balance bias"];

/// A device whose ops run by kernels where there are some.
pub(crate) fn open(name: &str, options: &[&str], precision: Precision) -> Option<Device> {
    let stand_in = Some(stand_in::build(name, options)?);
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
