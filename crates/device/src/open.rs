//! Opening a device by name, and the devices of this machine.

use crate::backend::{Backend, DeviceInfo};
use crate::cpu::Cpu;
use crate::device::Device;
use crate::reference::Reference;
#[cfg(unix)]
use crate::torch::{Options, Torch};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::DeviceSpec;

/// Opens the device that `device.name` of a run asks for: `cpu`, `reference`, or `torch:` and torch's own
/// name.
///
/// ```
/// # use lingot_device::{open::open, ops, Kind};
/// # use lingot_spec::run::DeviceSpec;
/// let device = open(&DeviceSpec { name: "cpu".into(), ..DeviceSpec::default() })?;
/// let sum = device.floats(&[1.0, 2.0], &[2], Kind::F32)?;
/// ops::add(&sum, &device.floats(&[10.0, 20.0], &[2], Kind::F32)?)?;
/// assert_eq!(sum.to_floats()?, [11.0, 22.0]);
/// # Ok::<(), lingot_spec::problem::Problem>(())
/// ```
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
        other => Err(Problem::new(
            format!("unknown device `{other}`: this machine has {}", listed(&apparent())),
            "`lingot devices` tries every device and says what an absent one lacks",
        )
        .of(ProblemKind::Device)),
    }
}

/// The devices that this machine has by the look of its files. None is opened, so that an error costs no
/// time.
fn apparent() -> Vec<&'static str> {
    let mut names = vec!["cpu"];
    #[cfg(unix)]
    names.extend(crate::torch::apparent());
    names
}

/// `cpu`, `cpu and torch:cpu`, `cpu, torch:cpu and torch:cuda:0`.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).into(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A device that could be opened.
pub struct Found {
    /// What the device says about itself.
    pub info: DeviceInfo,
    /// How ops reach it, one line each; empty if that is the same on every machine.
    pub routes: Vec<String>,
}

/// Opens a device as `lingot devices` does, in this process.
///
/// A maker's library may crash, throw or hang while it is opened, and takes the process with it. So devices
/// of torch's are looked for one by one, each in a process that can be spared.
///
/// # Errors
/// What the device lacks.
pub fn look_for(name: &str) -> Result<Found> {
    #[cfg(unix)]
    if name.starts_with("torch:") {
        let torch = Torch::open(name, Options::default())?;
        return Ok(Found { info: torch.info().clone(), routes: torch.routes() });
    }
    let device = open(&DeviceSpec { name: name.into(), ..DeviceSpec::default() })?;
    Ok(Found { info: device.info().clone(), routes: vec![] })
}

/// Devices that every machine has.
pub const BUILT_IN: [&str; 2] = ["cpu", "reference"];

/// The devices of torch's that are looked for. The last is torch's own name for the one chip that its maker
/// adds; it answers to the maker's name too.
pub const OF_TORCH: &[&str] = if cfg!(unix) {
    &[
        "torch:cpu",
        "torch:cuda:0",
        "torch:xpu:0",
        "torch:mps",
        "torch:npu:0",
        "torch:musa:0",
        "torch:mlu:0",
        "torch:privateuseone:0",
    ]
} else {
    &[]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_told_with_those_of_this_machine() {
        let spec = DeviceSpec { name: "gpu".into(), ..DeviceSpec::default() };
        let problem = open(&spec).err().unwrap().problem;
        assert!(problem.starts_with("unknown device `gpu`: this machine has cpu"), "{problem}");
        assert_eq!(listed(&["cpu", "torch:cpu", "torch:cuda:0"]), "cpu, torch:cpu and torch:cuda:0");
    }
}
