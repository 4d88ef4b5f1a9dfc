//! An existing run, trained again from its own text on another device or in another precision.
//!
//! The reference is the run's log. A real run amplifies rounding: after some hundred steps two sound devices
//! have different weights of the same quality. So three things are judged, each where it is sharp:
//!
//! 1. The **first steps**, where rounding has not grown: losses and gradient norms must agree with the log as
//!    the definitions' own do, with some room. The definitions train these steps too, in f64 with every
//!    result rounded once, where they can in reasonable time.
//! 2. The **curve**: the losses of all steps, within the bound of the level *curve*.
//! 3. Where the curve is beyond it, as it is for most real runs, the **held-out losses**: they must differ by
//!    no more than the bound, or by no more than those of the same run with other seeds.

use crate::Progress;
use crate::certificate::Side;
use crate::curve::{
    CurveReport, FirstSteps, HeldOutReport, JudgedBy, between, bound, differences, mean_size, report,
};
use crate::logged::{Furthest, Logged};
use lingot_device::{Device, Precision, open};
use lingot_spec::event::Event;
use lingot_spec::problem::Result;
use lingot_spec::run::{DeviceSpec, RunSpec};
use lingot_train::{config, data, step};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What to train again, and on what.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// The folder of the run, with its `run.toml` and `run.jsonl`.
    pub folder: PathBuf,
    /// The folder of the other trainings, which are resumed like any run.
    pub out: PathBuf,
    /// The candidate, as in `device.name` of a run.
    pub device: String,
    /// Its precision.
    pub precision: Precision,
    /// Its CPU threads; 0 for all.
    pub threads: u32,
    /// Seeds to compare, the run's own included; 1 measures no noise.
    pub seeds: u64,
}

/// The comparison of a run with the same run trained again.
#[derive(Clone, Debug, PartialEq)]
pub struct RunReport {
    /// The run, by its name.
    pub reference: Side,
    /// The device that trained it again.
    pub candidate: Side,
    /// Their losses.
    pub curve: CurveReport,
}

/// Opens a device by its description in a run.
pub type Opener<'a> = &'a dyn Fn(&DeviceSpec) -> Result<Device>;

/// Trains the run again, with other seeds too where asked for, and compares its losses with the log.
///
/// Errors if the run was not trained to its end, or cannot be trained again.
pub fn check(plan: &RunPlan, progress: Progress<'_>) -> Result<RunReport> {
    check_on(plan, &|spec| open::open(spec), progress)
}

/// As `check`, with the candidate opened by `open`: a test puts a faulty device there.
pub fn check_on(plan: &RunPlan, open: Opener<'_>, progress: Progress<'_>) -> Result<RunReport> {
    let logged = Logged::read(&plan.folder)?;
    let path = plan.folder.join("run.toml");
    let run = config::load(&path, &[])?.run;
    let again = Again { path: &path, run: &run, plan };
    let candidate = again.candidate(open, progress)?;
    logged.same_length(&candidate)?;
    let by_definition = again.by_definition(progress)?;
    let precisions = [run.device.precision, plan.precision];
    let mut first = first_steps(&logged, &candidate, by_definition.as_ref(), precisions);
    let mut others = vec![];
    // Other seeds cost as much as the run: nothing is left to judge where the first steps failed.
    if first.passed {
        for seed in (1..plan.seeds).map(|more| run.seed + more) {
            others.push(again.seed(seed, progress)?);
        }
    }
    others.iter().try_for_each(|other| logged.same_length(other))?;
    // A device that computes the run to the bit needs no bound.
    first.passed |= first.difference == 0.0;
    let curve = judged(&run.name, &logged, &candidate, &others, (first, bound(precisions)));
    Ok(RunReport {
        reference: Side { device: run.name.clone(), description: logged.device },
        candidate: Side { device: plan.device.clone(), description: candidate.device },
        curve,
    })
}

/// Compares the first steps with the log, by the bound that the definitions give.
fn first_steps(
    logged: &Logged,
    candidate: &Logged,
    by_definition: Option<&Logged>,
    precisions: [Precision; 2],
) -> FirstSteps {
    let steps = (FIRST_STEPS as usize).min(logged.losses.len());
    // A smaller difference is one of the last bits of a sum over thousands of tokens; a larger one is a fault
    // even where the definitions themselves are as far away.
    let [least, most] = match precisions {
        [Precision::F32, Precision::F32] => [2e-6, 2e-5],
        _ => [1e-3, 1e-2],
    };
    let by_definition = by_definition.map(|definition| logged.furthest(definition, steps).difference);
    let bound = by_definition.map_or(most, |difference| (ROOM * difference).clamp(least, most));
    let Furthest { difference, step, quantity } = logged.furthest(candidate, steps);
    FirstSteps {
        steps: steps as u64,
        // JSON has neither infinity nor a number that is none.
        difference: if difference.is_nan() { f64::MAX } else { difference.min(f64::MAX) },
        step,
        quantity: quantity.into(),
        by_definition,
        bound,
        // NaN is not within the bound either.
        passed: difference <= bound,
    }
}

/// Steps that are judged before rounding has grown.
pub const FIRST_STEPS: u64 = 5;
/// How many times as far as the definitions a sound device may be from the log.
const ROOM: f64 = 8.0;
/// Floating-point operations that the definitions may take, at about half a billion a second.
const MOST_FLOPS: f64 = 5e10;

/// Judges the first steps, then the curve, then held-out losses where there are any.
fn judged(
    name: &str,
    logged: &Logged,
    candidate: &Logged,
    others: &[Logged],
    (first, bound): (FirstSteps, f64),
) -> CurveReport {
    let noise: Vec<_> = others.iter().map(|other| other.losses.clone()).collect();
    let mut found = report(name, &logged.losses, &candidate.losses, &noise, bound);
    let of_curve = found.passed;
    let mut judged_by = JudgedBy::Curve;
    if !logged.held_out.is_empty() {
        let apart = |a: &Logged, b: &Logged| mean_size(&differences(&a.held_out, &b.held_out));
        let all: Vec<&Logged> = std::iter::once(logged).chain(others).collect();
        let (difference, seed_noise) =
            (apart(logged, candidate), mean_size(&between(&all, |a, b| apart(a, b))));
        let seeds = others.iter().map(|other| other.held_out.clone()).collect();
        let (reference, candidate) = (logged.held_out.clone(), candidate.held_out.clone());
        let passed = difference <= bound || difference <= seed_noise;
        if !of_curve || !passed {
            judged_by = JudgedBy::HeldOut;
            found.passed = passed;
        }
        found.held_out = Some(HeldOutReport { reference, candidate, seeds, difference, seed_noise });
    }
    if !first.passed {
        judged_by = JudgedBy::FirstSteps;
        found.passed = false;
    }
    found.first = Some(first);
    found.judged_by = Some(judged_by);
    found
}

/// A run that is trained again.
struct Again<'a> {
    path: &'a Path,
    run: &'a RunSpec,
    plan: &'a RunPlan,
}

impl Again<'_> {
    fn candidate(&self, open: Opener<'_>, progress: Progress<'_>) -> Result<Logged> {
        let RunPlan { device, precision, threads, out, .. } = self.plan;
        let precision = precision.name();
        let folder = out.join(format!("{}-{precision}", device.replace(':', "-")));
        let overrides = [
            format!("folder={}", folder.display()),
            format!("data.cache={}", data::data_folder(self.run).display()),
            // One device, even where the run had several.
            "devices=[]".into(),
            format!("device.name={device}"),
            format!("device.precision={precision}"),
            format!("device.threads={threads}"),
        ];
        self.train(&overrides, &format!("{device} {precision}"), open, progress)
    }

    /// The same run with another seed, where the run was trained, or if that device is not here, on the
    /// candidate.
    fn seed(&self, seed: u64, progress: Progress<'_>) -> Result<Logged> {
        let is_here = open::open(&self.run.device).is_ok();
        let name = if is_here { &self.run.device.name } else { &self.plan.device };
        let folder = self.plan.out.join(format!("seed-{seed}"));
        let overrides =
            [format!("folder={}", folder.display()), format!("seed={seed}"), format!("device.name={name}")];
        self.train(&overrides, &format!("seed {seed}"), &|spec| open::open(spec), progress)
    }

    /// The first steps by the definitions, where these can take them in reasonable time.
    fn by_definition(&self, progress: Progress<'_>) -> Result<Option<Logged>> {
        let run = self.run;
        let tokens = u64::from(run.data.sequence) * u64::from(run.batch.sequences);
        let steps = FIRST_STEPS.min(run.stop.steps.max(1));
        let flops = 6.0 * run.model.activated_parameters() as f64 * (tokens * steps) as f64;
        if flops > MOST_FLOPS {
            return Ok(None);
        }
        let folder = self.plan.out.join(format!("definition-{}", self.plan.precision.name()));
        let overrides = [
            format!("folder={}", folder.display()),
            format!("data.cache={}", data::data_folder(run).display()),
            "devices=[]".into(),
            "device.name=reference".into(),
            format!("device.precision={}", self.plan.precision.name()),
            format!("stop.steps={steps}"),
            "evaluation.every=0".into(),
            "checkpoint.every=0".into(),
        ];
        let opened: Opener<'_> = &|spec| open::open(spec);
        self.train(&overrides, "first steps by definition", opened, progress).map(Some)
    }

    /// Trains the run with other settings and reads its log.
    fn train(
        &self,
        overrides: &[String],
        label: &str,
        open: Opener<'_>,
        progress: Progress<'_>,
    ) -> Result<Logged> {
        let resolved = config::load(self.path, overrides)?;
        let dataset = data::prepare_data(&resolved.run, &|_| ())?;
        let device = open(&resolved.run.device)?;
        let steps = resolved.run.stop.steps;
        let mut listen = |event: &Event| {
            if let Event::Step(step) = event {
                progress(label, step.step, steps);
            }
        };
        let interrupted = AtomicBool::new(false);
        let summary = step::train(&resolved, &dataset, &device, &mut listen, &interrupted)?;
        debug_assert!(!interrupted.load(Ordering::Relaxed) && !summary.interrupted);
        let device = device.info().description.clone();
        Ok(Logged { device, ..Logged::read(Path::new(&resolved.run.folder))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(held_out: &[f64]) -> Logged {
        let (losses, norms, held_out) = (vec![5.0, 4.0], vec![1.0, 2.0], held_out.to_vec());
        Logged { folder: "out".into(), device: "cpu".into(), losses, norms, held_out }
    }

    fn verdict(candidate: &Logged, log: &Logged, others: &[Logged]) -> CurveReport {
        let first = first_steps(log, log, None, [Precision::F32; 2]);
        judged("run", log, candidate, others, (first, 1e-3))
    }

    #[test]
    fn held_out_losses_pass_within_the_bound_or_within_what_other_seeds_do_and_not_otherwise() {
        let passes = |candidate: f64, others: &[f64]| {
            let others: Vec<Logged> = others.iter().map(|&loss| logged(&[loss])).collect();
            verdict(&logged(&[candidate]), &logged(&[4.0]), &others).passed
        };
        assert!(passes(4.003, &[]), "within the bound");
        assert!(!passes(4.02, &[]), "beyond it, and no seed to say that this is little");
        assert!(passes(4.02, &[4.04]), "half of what another seed does");
        assert!(!passes(4.08, &[4.04]), "twice of that");
        assert!(!passes(3.92, &[4.04]), "a better loss is another loss");
        assert!(!passes(f64::NAN, &[4.04]), "not a number");
    }

    #[test]
    fn without_held_out_losses_those_of_the_steps_are_judged() {
        let mut candidate = logged(&[]);
        let report = verdict(&candidate, &logged(&[]), &[]);
        assert!(report.passed && report.judged_by == Some(JudgedBy::Curve));
        candidate.losses[1] = 4.01;
        assert!(!verdict(&candidate, &logged(&[]), &[]).passed);
    }

    #[test]
    fn a_curve_beyond_the_bound_is_judged_by_its_held_out_losses() {
        let mut candidate = logged(&[4.0]);
        candidate.losses[1] = 4.1;
        let report = verdict(&candidate, &logged(&[4.0]), &[]);
        assert!(report.passed && report.judged_by == Some(JudgedBy::HeldOut));
    }

    #[test]
    fn first_steps_are_held_to_the_definitions_own_distance_from_the_log() {
        let shifted = |relative: f64, of_norms: f64| {
            let mut log = logged(&[4.0]);
            log.losses.iter_mut().for_each(|loss| *loss *= 1.0 + relative);
            log.norms[1] *= 1.0 + of_norms;
            log
        };
        let log = logged(&[4.0]);
        let first = |candidate: &Logged, definition: &Logged| {
            first_steps(&log, candidate, Some(definition), [Precision::F32; 2])
        };
        assert!(first(&shifted(1e-6, 0.0), &shifted(1e-9, 0.0)).passed, "the last bits");
        assert!(!first(&shifted(4e-6, 0.0), &shifted(1e-7, 0.0)).passed, "forty times the definitions'");
        assert!(first(&shifted(4e-6, 0.0), &shifted(1e-6, 0.0)).passed, "four times the definitions'");
        let found = first(&shifted(0.0, 1e-4), &shifted(1e-3, 0.0));
        assert_eq!((found.passed, found.step, found.quantity.as_str()), (false, 2, "gradient norm"));
        assert!(!first(&shifted(f64::NAN, 0.0), &shifted(1e-9, 0.0)).passed, "not a number");
        let failed = judged("run", &log, &log, &[], (found, 1e-3));
        assert_eq!((failed.passed, failed.judged_by), (false, Some(JudgedBy::FirstSteps)));
    }
}
