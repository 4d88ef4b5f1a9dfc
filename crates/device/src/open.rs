//! Which device a name stands for, and which there are here.

use crate::backend::{Backend, DeviceInfo};
use crate::cpu::Cpu;
use crate::reference::Reference;
use crate::tensor::Device;
#[cfg(unix)]
use crate::torch::{Options, Torch};
use lingot_spec::problem::{Problem, ProblemKind, Result};
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
        other => Err(Problem::new(
            format!("no device is called `{other}`"),
            "`cpu` computes; `torch:cpu`, `torch:cuda:0` and the like compute through the user's torch; `reference` is \
             the slow definition; `lingot devices` lists what was found",
        )
        .of(ProblemKind::Device)),
    }
}

/// A device that can be opened here.
pub struct Found {
    pub info: DeviceInfo,
    /// How ops reach it, where that is not the same everywhere.
    pub routes: Vec<String>,
}

/// Tries every device that has a name here: what was found, or why not.
pub fn survey() -> Vec<(String, Result<Found>)> {
    let built_in = ["cpu", "reference"].map(|name| {
        let opened = open(&DeviceSpec { name: name.into(), ..DeviceSpec::default() });
        (name.into(), opened.map(|device| Found { info: device.info().clone(), routes: vec![] }))
    });
    built_in.into_iter().chain(survey_torch()).collect()
}

/// The devices that were found here and that compute for themselves: not the slow definition, nor torch's view of the
/// processor that `cpu` is.
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
