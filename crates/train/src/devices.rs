//! Which device a name stands for.

use crate::error::{Error, Result};
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_device::reference::Reference;
#[cfg(unix)]
use lingot_device::torch::{Options, Torch};
use lingot_spec::run::DeviceSpec;

/// Opens the device that `device.name` of a run asks for.
pub fn open(spec: &DeviceSpec) -> Result<Device> {
    let threads = spec.threads as usize;
    match spec.name.as_str() {
        "cpu" => Ok(Device::new(Cpu::with_precision(threads, spec.precision))),
        "reference" => Ok(Device::new(Reference::with_precision(spec.precision))),
        #[cfg(unix)]
        name if name.starts_with("torch:") => {
            let options = Options { precision: spec.precision, threads, ..Options::default() };
            Ok(Device::new(Torch::open(name, options)?))
        }
        other => Err(Error::new(
            format!("no device is called `{other}`"),
            "`cpu` computes; `torch:cpu`, `torch:cuda:0` and the like compute through the user's torch; `reference` is \
             the slow definition; `lingot devices` lists what was found",
        )),
    }
}
