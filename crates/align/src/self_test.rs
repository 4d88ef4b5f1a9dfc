//! The self-test: plants every fault, one at a time, and reports which level catches it and where; with none
//! planted, every level must pass.

use crate::Progress;
use crate::curve::{self, CurvePlan};
use crate::faults::{Planted, faulty};
use crate::modules;
use crate::trace::Fault;
use lingot_device::{Device, Precision, conformance};
use lingot_spec::Result;
use serde::{Deserialize, Serialize};

/// The result of one fault, or of none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The fault; none in the trial without one.
    pub planted: Option<Planted>,
    /// Its name for people.
    pub name: String,
    /// The first case of the suite that fails.
    pub ops: Option<String>,
    /// The first fault in a step.
    pub modules: Option<Fault>,
    /// The mean relative difference of losses, where it is beyond the bound.
    pub curve: Option<f64>,
    /// Whether a level caught the fault at the op where it was planted; without a fault, whether every level
    /// passed.
    pub caught: bool,
    /// Where it was found: module, op and operand.
    pub place: String,
}

/// The results of all trials. The object of `lingot align --self-test --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Faults planted.
    pub planted: u64,
    /// Faults caught.
    pub caught: u64,
    /// Whether every level passed with nothing planted.
    pub clean: bool,
    /// The verdict.
    pub passed: bool,
    /// One trial without a fault, then one per fault.
    pub trials: Vec<Trial>,
}

/// Compares `device` with itself, with each fault in turn; each curve has `steps` steps.
pub fn run(device: &Device, precision: Precision, steps: u64, progress: Progress<'_>) -> Result<SelfTest> {
    let all: Vec<_> = std::iter::once(None).chain(Planted::ALL.map(Some)).collect();
    let mut trials = vec![];
    for (done, &planted) in all.iter().enumerate() {
        let label = planted.map_or("nothing planted", Planted::name);
        progress(label, done as u64, all.len() as u64);
        trials.push(trial(device, precision, steps, planted)?);
    }
    let caught = trials.iter().filter(|trial| trial.planted.is_some() && trial.caught).count() as u64;
    let clean = trials.first().is_some_and(|trial| trial.caught);
    let planted = Planted::ALL.len() as u64;
    Ok(SelfTest { planted, caught, clean, passed: clean && caught == planted, trials })
}

fn trial(device: &Device, precision: Precision, steps: u64, planted: Option<Planted>) -> Result<Trial> {
    let verdicts = conformance::check_in(&faulty(device, planted), precision, &mut |_, _| ())?;
    let failed = verdicts.iter().find(|verdict| !verdict.passed);
    let silent: Progress<'_> = &mut |_, _, _| ();
    let reports = modules::check(device, device, precision, 1, planted, silent)?;
    let fault = reports.into_iter().find_map(|report| report.fault);
    let plan = CurvePlan { steps, seed: 1, precision, planted, seeds: 1 };
    let curves = curve::check(device, device, plan, &[0], silent)?;
    let curve = curves.iter().flatten().find(|curve| !curve.passed).map(|curve| curve.mean);
    let found =
        failed.map(|verdict| verdict.op).into_iter().chain(fault.as_ref().map(|fault| fault.op.as_str()));
    let caught = match planted {
        Some(planted) => found.clone().any(|op| planted.places().contains(&op)),
        None => failed.is_none() && fault.is_none() && curve.is_none(),
    };
    let place = match (&fault, failed) {
        (Some(fault), _) => format!("{}: {}, {}", fault.module, fault.op, fault.what),
        (None, Some(verdict)) => format!("{} {}", verdict.op, verdict.case),
        (None, None) => String::new(),
    };
    Ok(Trial {
        planted,
        name: planted.map_or("nothing", Planted::name).into(),
        ops: failed.map(|verdict| format!("{} {}", verdict.op, verdict.case)),
        modules: fault,
        curve,
        caught,
        place,
    })
}
