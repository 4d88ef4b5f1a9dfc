//! Level *modules*: one whole step on both devices, forward and backward, each op fed with the reference's
//! inputs.

use crate::Progress;
use crate::faults::{Planted, Wiring, faulty};
use crate::task::{self, Task};
use crate::trace::{self, Fault, MODULES, ModuleError};
use crate::trainer::Trainer;
use lingot_device::op::Route;
use lingot_device::{Device, Kind, Precision};
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

/// Compares one step of each model, in the precisions of the reference and the candidate. `planted` alters
/// the candidate.
///
/// Two experts that are equal up to the last bit may rightly be chosen in either order. Such a difference is
/// looked for again in another text, where a fault of the router would show as well.
pub fn check(
    reference: &Device,
    candidate: &Device,
    precisions: [Precision; 2],
    seed: u64,
    planted: Option<Planted>,
    progress: Progress<'_>,
) -> Result<Vec<ModulesReport>> {
    let candidate = faulty(candidate, planted);
    let tasks = task::tasks();
    let mut reports = vec![];
    for (done, task) in tasks.iter().enumerate() {
        progress("modules", done as u64, tasks.len() as u64);
        let compare =
            |text: u64| one(task, [reference, &candidate], precisions, [seed, text], Wiring(planted));
        let mut report = compare(seed)?;
        if report.fault.as_ref().is_some_and(is_choice) {
            report = compare(seed + OTHER_TEXT)?;
        }
        reports.push(report);
    }
    Ok(reports)
}

/// What is added to a seed for another text.
const OTHER_TEXT: u64 = 1 << 32;

fn is_choice(fault: &Fault) -> bool {
    fault.op == Route::NAME && fault.what.starts_with("experts[")
}

fn one(
    task: &Task,
    [reference, candidate]: [&Device; 2],
    precisions: [Precision; 2],
    seeds: [u64; 2],
    wiring: Wiring,
) -> Result<ModulesReport> {
    let kinds = precisions.map(Kind::from);
    let (recorded, watch, trace) = trace::record(reference);
    let first = Trainer::new(task, &recorded, kinds[0], seeds, Wiring(None))?;
    watch.start(first.named());
    first.differentiate()?;
    watch.stop(&trace);
    let (followed, watch) = trace::follow(candidate, &trace);
    let second = Trainer::new(task, &followed, kinds[1], seeds, wiring)?;
    watch.start(second.named());
    second.differentiate()?;
    let found = watch.stop(&trace);
    // A step on the candidate's own inputs, in which errors add up.
    let alone = Trainer::new(task, candidate, kinds[1], seeds, wiring)?;
    alone.differentiate()?;
    let gradients = differences(&first.gradients()?, &alone.gradients()?);
    let mut modules = found.modules;
    modules.sort_by_key(|module| MODULES.iter().position(|name| *name == module.module));
    let passed = found.fault.is_none();
    Ok(ModulesReport { model: task.name.into(), modules, gradients, fault: found.fault, passed })
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
