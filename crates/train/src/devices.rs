//! Which device a name stands for.

use crate::error::{Error, Result};
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_device::reference::Reference;
use lingot_spec::run::DeviceSpec;

/// Opens the device that `device.name` of a run asks for.
pub fn open(spec: &DeviceSpec) -> Result<Device> {
    match spec.name.as_str() {
        "cpu" => Ok(Device::new(Cpu::with_precision(spec.threads as usize, spec.precision))),
        "reference" => Ok(Device::new(Reference::with_precision(spec.precision))),
        other => Err(Error::new(
            format!("no device is called `{other}`"),
            "`cpu` computes; `reference` is the slow definition; `lingot devices` lists what was found",
        )),
    }
}
