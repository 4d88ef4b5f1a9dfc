//! An existing run, trained again from its own text on another device or in another precision.
//!
//! The reference is the run's log. A real run amplifies rounding: after some hundred steps two sound devices
//! have different weights of the same quality. So the verdict is about that quality: the held-out losses must
//! differ by no more than the bound, or by no more than those of the same run with other seeds.

use crate::Progress;
use crate::certificate::Side;
use crate::curve::{CurveReport, HeldOutReport, between, bound, differences, mean_size, report};
use lingot_device::Precision;
use lingot_device::open;
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, Result};
use lingot_train::record::log;
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

/// Trains the run again, with other seeds too where asked for, and compares its losses with the log.
///
/// Errors if the run was not trained to its end, or cannot be trained again.
pub fn check(plan: &RunPlan, progress: Progress<'_>) -> Result<RunReport> {
    let logged = Logged::read(&plan.folder)?;
    let path = plan.folder.join("run.toml");
    let run = config::load(&path, &[])?.run;
    let (precision, device) = (plan.precision.name(), &plan.device);
    let same_text = data::data_folder(&run);
    let candidate = again(
        &path,
        &[
            format!(
                "folder={}",
                plan.out.join(format!("{}-{precision}", device.replace(':', "-"))).display()
            ),
            format!("data.cache={}", same_text.display()),
            // One device, even where the run had several.
            "devices=[]".into(),
            format!("device.name={device}"),
            format!("device.precision={precision}"),
            format!("device.threads={}", plan.threads),
        ],
        &format!("{device} {precision}"),
        progress,
    )?;
    let mut others = vec![];
    // Other seeds train where the run did, or where that device is not here, on the one in question.
    let is_here = open::open(&run.device).is_ok();
    let name = if is_here { &run.device.name } else { device };
    for seed in (1..plan.seeds).map(|more| run.seed + more) {
        let folder = plan.out.join(format!("seed-{seed}"));
        let overrides =
            [format!("folder={}", folder.display()), format!("seed={seed}"), format!("device.name={name}")];
        others.push(again(&path, &overrides, &format!("seed {seed}"), progress)?);
    }
    for other in others.iter().chain([&candidate]) {
        logged.same_length(other)?;
    }
    let curve = judged(&run.name, &logged, &candidate, &others, bound(plan.precision));
    Ok(RunReport {
        reference: Side { device: run.name, description: logged.device },
        candidate: Side { device: plan.device.clone(), description: candidate.device },
        curve,
    })
}

/// Judges held-out losses where there are any, and the losses of the steps where there are none.
fn judged(name: &str, logged: &Logged, candidate: &Logged, others: &[Logged], bound: f64) -> CurveReport {
    let noise: Vec<_> = others.iter().map(|other| other.losses.clone()).collect();
    let mut found = report(name, &logged.losses, &candidate.losses, &noise, bound);
    if logged.held_out.is_empty() {
        return found;
    }
    let apart = |a: &Logged, b: &Logged| mean_size(&differences(&a.held_out, &b.held_out));
    let all: Vec<&Logged> = std::iter::once(logged).chain(others).collect();
    let (difference, seed_noise) = (apart(logged, candidate), mean_size(&between(&all, |a, b| apart(a, b))));
    let seeds = others.iter().map(|other| other.held_out.clone()).collect();
    let (reference, candidate) = (logged.held_out.clone(), candidate.held_out.clone());
    found.passed = difference <= bound || difference <= seed_noise;
    found.held_out = Some(HeldOutReport { reference, candidate, seeds, difference, seed_noise });
    found
}

/// A run, as its log tells it.
struct Logged {
    folder: PathBuf,
    /// The description of its device.
    device: String,
    /// The cross-entropy of the next token, by step.
    losses: Vec<f64>,
    /// Held-out losses, without the one before the first step.
    held_out: Vec<f64>,
}

impl Logged {
    fn read(folder: &Path) -> Result<Logged> {
        let events = log::read(folder)?;
        let folder_of = folder.to_owned();
        let mut logged =
            Logged { folder: folder_of, device: String::new(), losses: vec![], held_out: vec![] };
        for event in events {
            match event {
                Event::Start(start) => logged.device = start.device,
                Event::Step(step) => logged.losses.push(step.main_loss),
                Event::Evaluation(scored) if scored.step > 0 => logged.held_out.push(scored.loss),
                _ => {}
            }
        }
        if logged.losses.len() < 2 {
            return Err(Problem::new(
                format!("{} logs {} steps; a curve needs at least 2", folder.display(), logged.losses.len()),
                "train it first: lingot train RUN.toml",
            ));
        }
        Ok(logged)
    }

    /// Errors if the runs have different numbers of losses, which would be compared with the wrong ones: one
    /// was stopped, or skipped steps.
    fn same_length(&self, other: &Logged) -> Result<()> {
        let lengths = |logged: &Logged| (logged.losses.len(), logged.held_out.len());
        if lengths(self) == lengths(other) {
            return Ok(());
        }
        let ((steps, scores), (other_steps, other_scores)) = (lengths(self), lengths(other));
        let (folder, other) = (self.folder.display(), other.folder.display());
        Err(Problem::new(
            format!(
                "{folder} logs {steps} steps and {scores} evaluations, {other} logs {other_steps} and \
                 {other_scores}"
            ),
            format!(
                "finish the run first (lingot train {folder}/run.toml); if it has, read {other}/run.jsonl"
            ),
        ))
    }
}

/// Trains the run of `path` with other settings and reads its log.
fn again(path: &Path, overrides: &[String], label: &str, progress: Progress<'_>) -> Result<Logged> {
    let resolved = config::load(path, overrides)?;
    let dataset = data::prepare_data(&resolved.run, &|_| ())?;
    let device = open::open(&resolved.run.device)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(held_out: &[f64]) -> Logged {
        let (losses, held_out) = (vec![5.0, 4.0], held_out.to_vec());
        Logged { folder: "out".into(), device: "cpu".into(), losses, held_out }
    }

    #[test]
    fn held_out_losses_pass_within_the_bound_or_within_what_other_seeds_do_and_not_otherwise() {
        let passes = |candidate: f64, others: &[f64]| {
            let others: Vec<Logged> = others.iter().map(|&loss| logged(&[loss])).collect();
            judged("run", &logged(&[4.0]), &logged(&[candidate]), &others, 1e-3).passed
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
        assert!(judged("run", &logged(&[]), &candidate, &[], 1e-3).passed);
        candidate.losses[1] = 4.01;
        assert!(!judged("run", &logged(&[]), &candidate, &[], 1e-3).passed);
    }
}
