//! The self-test: plants every fault, one at a time, and reports which level catches it and where; with none
//! planted, every level must pass.
//!
//! Levels are tried from the narrowest to the widest, and the first that fails has to name the right place.
//! The level *ops* is left out for faults outside the ops, which do not change the device.

use crate::Progress;
use crate::faults::{Level, Planted, faulty};
use crate::modules;
use crate::step::Steps;
use lingot_device::conformance::Verdict;
use lingot_device::conformance::wide::{Shapes, Wide};
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
    /// The first level that failed.
    pub level: Option<Level>,
    /// The op or the quantity of a step at which it failed.
    pub found: Option<String>,
    /// Where exactly: the shape, the module and operand, or the tensor and step.
    pub place: String,
    /// Whether the fault was caught at its level and named at a place where it was planted; without a fault,
    /// whether every level passed.
    pub caught: bool,
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

/// What a level found: the op or quantity, and where.
struct Found {
    level: Level,
    what: String,
    place: String,
}

/// A device that is compared with itself.
struct Bench<'a> {
    device: &'a Device,
    precision: Precision,
    wide: Wide,
    steps: Steps,
}

/// Compares `device` with itself, with each fault in turn.
pub fn run(device: &Device, precision: Precision, progress: Progress<'_>) -> Result<SelfTest> {
    let all: Vec<_> = std::iter::once(None).chain(Planted::ALL.iter().copied().map(Some)).collect();
    let wide = Wide::new(&Shapes::reaching(&device.boundaries()), precision);
    let bench = Bench { device, precision, wide, steps: Steps::new(precision, 1, progress)? };
    let mut trials = vec![];
    for (done, &planted) in all.iter().enumerate() {
        let label = planted.map_or("nothing planted", Planted::name);
        progress(label, done as u64, all.len() as u64);
        trials.push(bench.trial(planted)?);
    }
    let caught = trials.iter().filter(|trial| trial.planted.is_some() && trial.caught).count() as u64;
    let clean = trials.first().is_some_and(|trial| trial.caught);
    let planted = Planted::ALL.len() as u64;
    Ok(SelfTest { planted, caught, clean, passed: clean && caught == planted, trials })
}

impl Bench<'_> {
    fn trial(&self, planted: Option<Planted>) -> Result<Trial> {
        let found = self.first_failure(planted)?;
        let caught = match (planted, &found) {
            (Some(planted), Some(found)) => {
                found.level == planted.level() && planted.places().contains(&found.what.as_str())
            }
            (planted, found) => planted.is_none() && found.is_none(),
        };
        Ok(Trial {
            planted,
            name: planted.map_or("nothing", Planted::name).into(),
            level: found.as_ref().map(|found| found.level),
            place: found.as_ref().map_or_else(String::new, |found| found.place.clone()),
            found: found.map(|found| found.what),
            caught,
        })
    }

    /// Goes up the levels until one fails.
    fn first_failure(&self, planted: Option<Planted>) -> Result<Option<Found>> {
        if planted.is_none_or(Planted::alters_ops)
            && let Some(verdict) = self.failing_op(planted)?
        {
            let (what, place) = (verdict.op.into(), format!("{} {}", verdict.op, verdict.case));
            return Ok(Some(Found { level: Level::Ops, what, place }));
        }
        let silent: Progress<'_> = &mut |_, _, _| ();
        let reports = modules::check(self.device, self.device, [self.precision; 2], 1, planted, silent)?;
        if let Some(fault) = reports.into_iter().find_map(|report| report.fault) {
            let place = format!("{}: {}, {}", fault.module, fault.op, fault.what);
            return Ok(Some(Found { level: Level::Modules, what: fault.op, place }));
        }
        let reports = self.steps.check(self.device, planted, silent)?;
        let fault = reports.into_iter().find_map(|report| report.fault);
        Ok(fault.map(|fault| {
            let tensor = fault.tensor.map_or_else(String::new, |tensor| format!(" of {tensor}"));
            let place = format!("step {}: {}{tensor}", fault.step, fault.quantity);
            Found { level: Level::Step, what: fault.quantity, place }
        }))
    }

    /// The first output that fails, on small shapes or else on large ones.
    fn failing_op(&self, planted: Option<Planted>) -> Result<Option<Verdict>> {
        let device = faulty(self.device, planted);
        match conformance::first_failure(&device, self.precision)? {
            Some(verdict) => Ok(Some(verdict)),
            None => Ok(self.wide.first_failure(&device)?),
        }
    }
}
