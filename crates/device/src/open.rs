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

/// Tries to open every device that Lingot knows by name. Returns each name with what was found, or why
/// nothing was.
pub fn survey() -> Vec<(String, Result<Found>)> {
    let built_in = ["cpu", "reference"].map(|name| {
        let opened = open(&DeviceSpec { name: name.into(), ..DeviceSpec::default() });
        (name.into(), opened.map(|device| Found { info: device.info().clone(), routes: vec![] }))
    });
    built_in.into_iter().chain(survey_torch()).collect()
}

/// The names of the devices that can be opened and that add computing power: neither the slow definition, nor
/// torch's view of the processor, which is `cpu` already.
pub fn all() -> Vec<String> {
    let is_own = |(name, found): &(String, Result<Found>)| {
        found.is_ok() && !["reference", "torch:cpu"].contains(&name.as_str())
    };
    survey().into_iter().filter(is_own).map(|(name, _)| name).collect()
}

/// torch's own name for the one chip that its maker adds; it answers to the maker's name too.
#[cfg(unix)]
const ADDED: &str = "torch:privateuseone:0";

#[cfg(unix)]
fn survey_torch() -> Vec<(String, Result<Found>)> {
    let names = [
        "torch:cpu",
        "torch:cuda:0",
        "torch:xpu:0",
        "torch:mps",
        "torch:npu:0",
        "torch:musa:0",
        "torch:mlu:0",
    ];
    let found = |name: &str| {
        let torch = Torch::open(name, Options::default())?;
        Ok(Found { info: torch.info().clone(), routes: torch.routes() })
    };
    names.into_iter().chain([ADDED]).map(|name| (name.into(), found(name))).collect()
}

#[cfg(not(unix))]
fn survey_torch() -> Vec<(String, Result<Found>)> {
    vec![]
}

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
