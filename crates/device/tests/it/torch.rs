//! The torch backend, where a torch is installed.

use lingot_device::op::Flip;
use lingot_device::torch::Torch;
use lingot_device::{Device, Kind, ops};

#[test]
fn torch_multiplies_flips_and_adds() {
    let backend = match Torch::open("torch:cpu") {
        Ok(backend) => backend,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let device = Device::new(backend);
    let a = device.floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], Kind::F32).unwrap();
    let out = ops::matmul(&a, &a, Flip::B).unwrap();
    assert_eq!(out.to_floats().unwrap(), [14.0, 32.0, 32.0, 77.0]);
    assert_eq!(device.zeros(&[3], Kind::F32).unwrap().to_floats().unwrap(), [0.0; 3]);
}
