//! Where a resumed run is in its data: the position is saved, never recomputed from settings that may have
//! changed.
//!
//! Samples are numbered in the order of the mixture, each `data.sequence` tokens long. So a run may go on
//! with another batch, and neither repeats nor skips text. Another order or length of the samples is refused.

use crate::schedule;
use lingot_spec::RunSpec;
use lingot_spec::manifest::ManifestHead;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::{BatchSpec, Strategy};
use serde::Deserialize;
use std::path::Path;

/// The settings of a run that number its samples. Other keys of its text, of whatever version, do not matter.
#[derive(Debug, Deserialize)]
struct Numbering {
    batch: BatchSpec,
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    sequence: u32,
    corpora: Vec<Corpus>,
}

#[derive(Debug, Deserialize)]
struct Corpus {
    weight: f64,
}

/// Errors if a folder holds a model that is not a run's: one that was imported, merged or exported there. A
/// run would begin anew beside it, and whoever names the folder later would get the other.
pub fn check_folder(folder: &Path) -> Result<()> {
    let kind = match folder {
        _ if folder.join("manifest.json").exists() => "a checkpoint",
        _ if folder.join("config.json").exists() => "a Hugging Face model",
        _ => return Ok(()),
    };
    Err(Problem::new(
        format!("{} is {kind}, not the folder of a run", folder.display()),
        "choose a new `folder` for the run",
    )
    .of(ProblemKind::Input))
}

/// Returns how many samples the run of a checkpoint has taken. Errors if `run` would number them otherwise.
pub(crate) fn samples(head: &ManifestHead, run: &RunSpec) -> Result<u64> {
    if head.step == 0 {
        return Ok(0);
    }
    let before: Numbering = toml::from_str(&head.run).map_err(|error| {
        Problem::damaged(format!(
            "the checkpoint of step {} does not say how its text was numbered: {}",
            head.step,
            error.message()
        ))
    })?;
    refuse("data.sequence", &before.data.sequence, &run.data.sequence)?;
    let now = run.data.corpora.iter().map(|corpus| corpus.weight).collect();
    let then = before.data.corpora.iter().map(|corpus| corpus.weight).collect();
    refuse("the shares of data.corpora", &shares(then), &shares(now))?;
    // Apart, steps are counted in samples.
    if run.sync.strategy != Strategy::EveryStep {
        let batch = |batch: &BatchSpec| (batch.sequences, batch.from, batch.ramp_steps);
        refuse("batch.sequences, batch.from, batch.ramp_steps", &batch(&before.batch), &batch(&run.batch))?;
    }
    Ok(head.samples.unwrap_or_else(|| schedule::first_sample(&before.batch, head.step)))
}

/// Returns each corpus's share of the samples, from the corpora's weights.
fn shares(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
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
        // A key that this version does not know is no reason to count anew.
        let mut of_another_version = head(&before, None);
        of_another_version.run += "\n[later]\nkey = 1\n";
        assert_eq!(samples(&of_another_version, &now).unwrap(), 4 * 4 + 6 * 8);
    }

    #[test]
    fn a_checkpoint_that_does_not_say_how_its_text_was_numbered_is_refused() {
        let run = resolved(&[]);
        let silent = ManifestHead { run: String::new(), ..head(&run, None) };
        let problem = samples(&silent, &run.run).unwrap_err();
        assert!(problem.problem.contains("the checkpoint of step 10 does not say"), "{problem}");
        assert_eq!(samples(&ManifestHead { step: 0, ..silent }, &run.run).unwrap(), 0);
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
