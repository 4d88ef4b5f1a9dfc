//! Level *modules*: one whole step on both devices, forward and backward, each op fed with the reference's
//! inputs.

use crate::Progress;
use crate::faults::{Planted, Wiring, faulty};
use crate::task;
use crate::trace::{self, Fault, MODULES, ModuleError};
use crate::trainer::Trainer;
use lingot_device::{Device, Precision};
use lingot_spec::Result;
use serde::{Deserialize, Serialize};

/// The comparison of one step of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModulesReport {
    /// The model's name.
    pub model: String,
    /// The worst errors by module.
    pub modules: Vec<ModuleError>,
    /// The relative error of every gradient, by tensor: largest difference over largest element.
    pub gradients: Vec<(String, f64)>,
    /// The first op at fault.
    pub fault: Option<Fault>,
    /// The verdict.
    pub passed: bool,
}

/// Compares one step of each model. `planted` alters the candidate.
pub fn check(
    reference: &Device,
    candidate: &Device,
    precision: Precision,
    seed: u64,
    planted: Option<Planted>,
    progress: Progress<'_>,
) -> Result<Vec<ModulesReport>> {
    let candidate = faulty(candidate, planted);
    let wiring = Wiring(planted);
    let models = task::models();
    let mut reports = vec![];
    for (done, (name, spec)) in models.iter().enumerate() {
        progress("modules", done as u64, models.len() as u64);
        let (recorded, watch, trace) = trace::record(reference);
        let first = Trainer::new(spec, &recorded, seed, seed, Wiring(None))?;
        watch.start(first.named());
        first.differentiate()?;
        watch.stop(&trace);
        let (followed, watch) = trace::follow(&candidate, &trace, precision);
        let second = Trainer::new(spec, &followed, seed, seed, wiring)?;
        watch.start(second.named());
        second.differentiate()?;
        let found = watch.stop(&trace);
        // A step on the candidate's own inputs, in which errors add up.
        let alone = Trainer::new(spec, &candidate, seed, seed, wiring)?;
        alone.differentiate()?;
        let gradients = differences(&first.gradients()?, &alone.gradients()?);
        let mut modules = found.modules;
        modules.sort_by_key(|module| MODULES.iter().position(|name| *name == module.module));
        let passed = found.fault.is_none();
        reports.push(ModulesReport { model: (*name).into(), modules, gradients, fault: found.fault, passed });
    }
    Ok(reports)
}

/// A gradient and the name of its tensor.
type Named = (String, Vec<f32>);

fn differences(wanted: &[Named], found: &[Named]) -> Vec<(String, f64)> {
    let one = |((name, wanted), (_, found)): (&Named, &Named)| {
        let size = wanted.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
        let most = wanted.iter().zip(found).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        (name.clone(), f64::from(most) / f64::from(size).max(1e-30))
    };
    wanted.iter().zip(found).map(one).collect()
}
