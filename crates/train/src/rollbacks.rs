//! Rollbacks: where a run has diverged, gone back to a sound checkpoint and taken a lower rate. They are in
//! `rollbacks.json` of the run's folder, so that a run that is killed meanwhile takes the same rates again.

use lingot_spec::problem::{Problem, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

const FILE: &str = "rollbacks.json";
/// A run rolls back this many times for the same steps; then the rate is for its user to choose.
const MOST: usize = 3;
/// How far past the step that failed the lower rate lasts.
const LASTS_STEPS: u64 = 100;

/// A run that went back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rollback {
    /// The step of the checkpoint that it went back to.
    pub(crate) to_step: u64,
    /// The step that it could not take.
    pub(crate) failed_step: u64,
    /// What the rate is multiplied by, up to `until_step`.
    pub(crate) factor: f64,
    pub(crate) until_step: u64,
    /// `optimizer.rate` of the run; with another, it counts no more.
    pub(crate) rate: f64,
    /// A clause: why it went back.
    pub(crate) reason: String,
}

/// All rollbacks of a run, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rollbacks(Vec<Rollback>);

impl Rollbacks {
    /// Reads those of a run that goes on; one that begins has none. A file that cannot be read counts as
    /// none.
    pub(crate) fn read(folder: &Path, step: u64, rate: f64) -> Rollbacks {
        let text = if step > 0 { fs::read_to_string(folder.join(FILE)).ok() } else { None };
        let all: Rollbacks = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Rollbacks(
            all.0.into_iter().filter(|rollback| rollback.to_step <= step && rollback.rate == rate).collect(),
        )
    }

    /// What the rate of the step after `step` steps is multiplied by.
    pub(crate) fn factor(&self, step: u64) -> f64 {
        let lasting = self.0.iter().filter(|rollback| rollback.to_step <= step && step < rollback.until_step);
        lasting.map(|rollback| rollback.factor).fold(1.0, f64::min)
    }

    /// How often the run has rolled back on its way to a step.
    pub(crate) fn count(&self, to_step: u64, failed_step: u64) -> usize {
        self.0
            .iter()
            .filter(|rollback| to_step < rollback.until_step && failed_step >= rollback.to_step)
            .count()
    }

    /// The next rollback; none where it would be one too many.
    pub(crate) fn next(&self, to_step: u64, failed_step: u64, rate: f64, reason: String) -> Option<Rollback> {
        let before = self.count(to_step, failed_step);
        let factor = 0.5_f64.powi(before as i32 + 1);
        let until_step = failed_step + LASTS_STEPS;
        (before < MOST).then_some(Rollback { to_step, failed_step, factor, until_step, rate, reason })
    }

    /// Adds a rollback and writes all of them.
    pub(crate) fn add(&mut self, folder: &Path, rollback: Rollback) -> Result<()> {
        self.0.push(rollback);
        let (partial, path) = (folder.join("rollbacks.json.partial"), folder.join(FILE));
        let text = serde_json::to_string_pretty(&self)
            .map_err(|error| Problem::bug(format!("cannot write {FILE}: {error}")))?;
        let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, &path));
        written.map_err(|error| Problem::io("write", &path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rollback_for_the_same_steps_halves_the_rate_until_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let mut rollbacks = Rollbacks::default();
        for factor in [0.5, 0.25, 0.125] {
            let rollback = rollbacks.next(40, 57, 1e-3, "it diverged".into()).unwrap();
            assert_eq!((rollback.factor, rollback.until_step), (factor, 157));
            rollbacks.add(folder.path(), rollback).unwrap();
            assert_eq!([39, 40, 156, 157].map(|step| rollbacks.factor(step)), [1.0, factor, factor, 1.0]);
        }
        assert_eq!(rollbacks.next(40, 60, 1e-3, String::new()), None);
        assert!(rollbacks.next(500, 560, 1e-3, String::new()).is_some(), "further on it may roll back again");
        assert_eq!(Rollbacks::read(folder.path(), 40, 1e-3), rollbacks);
        // Another rate, an earlier checkpoint and a run that begins are not bound by them.
        for (step, rate) in [(40, 1e-4), (30, 1e-3), (0, 1e-3)] {
            assert_eq!(Rollbacks::read(folder.path(), step, rate), Rollbacks::default());
        }
        fs::write(folder.path().join(FILE), "nonsense").unwrap();
        assert_eq!(Rollbacks::read(folder.path(), 40, 1e-3), Rollbacks::default());
    }
}
