//! A run, as its log tells it, and how far it is from another.

use crate::curve::differences;
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, Result};
use lingot_train::record::log;
use std::path::{Path, PathBuf};

/// A run, as its log tells it.
pub(crate) struct Logged {
    pub(crate) folder: PathBuf,
    /// The description of its device.
    pub(crate) device: String,
    /// The cross-entropy of the next token, by step.
    pub(crate) losses: Vec<f64>,
    /// The norm of the gradient, by step.
    pub(crate) norms: Vec<f64>,
    /// Held-out losses, without the one before the first step.
    pub(crate) held_out: Vec<f64>,
}

/// Where two runs differ most.
pub(crate) struct Furthest {
    pub(crate) difference: f64,
    /// The step, from 1.
    pub(crate) step: u64,
    pub(crate) quantity: &'static str,
}

impl Logged {
    pub(crate) fn read(folder: &Path) -> Result<Logged> {
        let events = log::read(folder)?;
        let folder_of = folder.to_owned();
        let (losses, norms, held_out) = (vec![], vec![], vec![]);
        let mut logged = Logged { folder: folder_of, device: String::new(), losses, norms, held_out };
        for event in events {
            match event {
                Event::Start(start) => logged.device = start.device,
                Event::Step(step) => {
                    logged.losses.push(step.main_loss);
                    logged.norms.push(step.gradient_norm);
                }
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

    /// The largest relative difference of a loss or a gradient norm in the first `steps` steps.
    pub(crate) fn furthest(&self, other: &Logged, steps: usize) -> Furthest {
        let mut furthest = Furthest { difference: 0.0, step: 1, quantity: "loss" };
        for (quantity, ours, theirs) in
            [("loss", &self.losses, &other.losses), ("gradient norm", &self.norms, &other.norms)]
        {
            for (step, difference) in differences(ours, theirs).into_iter().take(steps).enumerate() {
                // NaN is the furthest of all.
                if difference.abs() > furthest.difference || difference.is_nan() {
                    let difference = difference.abs();
                    furthest = Furthest { difference, step: step as u64 + 1, quantity };
                }
            }
        }
        furthest
    }

    /// Errors if the runs have different numbers of losses, which would be compared with the wrong ones: one
    /// was stopped, or skipped steps.
    pub(crate) fn same_length(&self, other: &Logged) -> Result<()> {
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
