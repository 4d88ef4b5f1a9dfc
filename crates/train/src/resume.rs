//! Where a resumed run is in its data: the position is saved, never recomputed from settings that may have
//! changed.
//!
//! Samples are numbered in the order of the mixture, each `data.sequence` tokens long. So a run may go on
//! with another batch, and neither repeats nor skips text. Another order or length of the samples is refused.

use crate::schedule;
use lingot_spec::RunSpec;
use lingot_spec::manifest::ManifestHead;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::Strategy;

/// Returns how many samples the run of a checkpoint has taken. Errors if `run` would number them otherwise.
pub(crate) fn samples(head: &ManifestHead, run: &RunSpec) -> Result<u64> {
    // A checkpoint that was imported or merged has no run, and begins the text anew.
    let Ok(before) = toml::from_str::<RunSpec>(&head.run) else { return Ok(head.samples.unwrap_or(0)) };
    let taken = head.samples.unwrap_or_else(|| schedule::first_sample(&before.batch, head.step));
    if head.step == 0 {
        return Ok(taken);
    }
    refuse("data.sequence", &before.data.sequence, &run.data.sequence)?;
    refuse("the shares of data.corpora", &shares(&before), &shares(run))?;
    // Apart, steps are counted in samples.
    if run.sync.strategy != Strategy::EveryStep {
        let batch = |run: &RunSpec| (run.batch.sequences, run.batch.from, run.batch.ramp_steps);
        refuse("batch.sequences, batch.from, batch.ramp_steps", &batch(&before), &batch(run))?;
    }
    Ok(taken)
}

/// Returns each corpus's share of the samples.
fn shares(run: &RunSpec) -> Vec<f64> {
    let sum: f64 = run.data.corpora.iter().map(|corpus| corpus.weight).sum();
    run.data.corpora.iter().map(|corpus| corpus.weight / sum).collect()
}

/// Errors if a setting that the order of the samples depends on has changed.
fn refuse<T: PartialEq + std::fmt::Debug>(what: &str, before: &T, now: &T) -> Result<()> {
    if before == now {
        return Ok(());
    }
    let problem = format!(
        "the run was trained with {what} = {before:?}, now it is {now:?}: it would repeat or skip text"
    );
    Err(Problem::new(problem, "restore the setting, or give the run another folder with `folder`")
        .of(ProblemKind::Input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::path::Path;

    fn resolved(set: &[&str]) -> config::Resolved {
        let text = "[model]\npreset = \"toy\"\n[data]\ncorpora = [{ path = \"a\" }, { path = \"b\" }]\n\
                    [batch]\nsequences = 8\nmicro = 4\n";
        let set: Vec<String> = set.iter().map(|&set| set.into()).collect();
        config::parse(text, Path::new("run.toml"), &set).unwrap()
    }

    fn head(run: &config::Resolved, samples: Option<u64>) -> ManifestHead {
        ManifestHead {
            lingot: String::new(),
            step: 10,
            tokens: 0,
            samples,
            seconds: 0.0,
            money: None,
            seed: 0,
            model: run.run.model.clone(),
            run: run.toml.clone(),
            merged: Vec::new(),
        }
    }

    #[test]
    fn a_checkpoint_without_samples_is_counted_by_the_batch_of_its_own_run() {
        let before = resolved(&["batch.from=4", "batch.ramp_steps=4"]);
        let now = resolved(&["batch.sequences=16"]).run;
        assert_eq!(samples(&head(&before, None), &now).unwrap(), 4 * 4 + 6 * 8);
        assert_eq!(samples(&head(&before, Some(77)), &now).unwrap(), 77);
    }

    #[test]
    fn what_would_number_the_samples_otherwise_is_refused_by_name() {
        let before = resolved(&[]);
        for (set, name) in [
            (&["data.sequence=128"][..], "data.sequence = 256, now it is 128"),
            (&["data.corpora.1.weight=3"], "the shares of data.corpora = [0.5, 0.5], now it is [0.25, 0.75]"),
            (
                &["sync.strategy=edit", "sync.virtual_speeds=[1,1]", "batch.sequences=16"],
                "batch.sequences, batch.from, batch.ramp_steps = (8, 0, 0), now it is (16, 0, 0)",
            ),
        ] {
            let problem = samples(&head(&before, Some(80)), &resolved(set).run).unwrap_err();
            assert!(problem.problem.contains(name), "{problem}");
            assert_eq!(problem.kind, ProblemKind::Input);
        }
        let doubled = resolved(&["data.corpora.0.weight=2", "data.corpora.1.weight=2"]).run;
        assert_eq!(samples(&head(&before, Some(80)), &doubled).unwrap(), 80);
    }
}
