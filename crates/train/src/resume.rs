//! Where a resumed run is in its data: the position is saved, never recomputed from settings that may have
//! changed. And whether it is the same data.
//!
//! Samples are numbered in the order of the mixture, each `data.sequence` tokens long. So a run may go on
//! with another batch, and neither repeats nor skips text. Another order or length of the samples is refused.

use crate::data::data_folder;
use crate::schedule;
use lingot_spec::RunSpec;
use lingot_spec::manifest::{DataHashes, ManifestHead};
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

/// Errors if a checkpoint was trained with another tokenizer or with other data than the run has now. Older
/// checkpoints do not say.
pub(crate) fn check_data(
    checkpoint: &Path,
    head: &ManifestHead,
    now: &DataHashes,
    run: &RunSpec,
) -> Result<()> {
    let Some(before) = &head.data else { return Ok(()) };
    let folder = data_folder(run);
    let exchanged = |what: String, before: &str, now: &str| {
        Problem::new(
            format!(
                "{} was trained with another {what}: its BLAKE3 was {}, now it is {}",
                checkpoint.display(),
                short(before),
                short(now)
            ),
            another_folder(run),
        )
        .of(ProblemKind::Input)
    };
    if before.tokenizer != now.tokenizer {
        let what = format!("tokenizer than {}", folder.join("tokenizer.json").display());
        return Err(exchanged(what, &before.tokenizer, &now.tokenizer));
    }
    if before.corpora.len() != now.corpora.len() {
        let (then, is) = (before.corpora.len(), now.corpora.len());
        let problem = format!("{} was trained with {then} corpora, the run has {is}", checkpoint.display());
        return Err(Problem::new(problem, another_folder(run)).of(ProblemKind::Input));
    }
    for (before, now) in before.corpora.iter().zip(&now.corpora) {
        for (side, before, after) in
            [("training", &before.training, &now.training), ("held-out", &before.validation, &now.validation)]
        {
            let hash = |files: &Option<[String; 2]>, file: usize| {
                files.as_ref().map_or_else(|| "none".to_owned(), |files| files[file].clone())
            };
            // The tokens first: they tell more than where they lie.
            if let Some(file) = [1, 0].into_iter().find(|&file| hash(before, file) != hash(after, file)) {
                let what = format!("{side} text of corpus {}", now.path);
                return Err(exchanged(what, &hash(before, file), &hash(after, file)));
            }
        }
    }
    Ok(())
}

/// The hint to leave a run as it is, and to begin another.
pub(crate) fn another_folder(run: &RunSpec) -> String {
    let cache = if run.data.cache.is_some() { " and another `data.cache`" } else { "" };
    format!("put back what it was trained with, or give the run another `folder`{cache} to begin anew")
}

/// The first digits of a hash.
fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
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
    use lingot_spec::manifest::CorpusHashes;

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
            data: None,
            guard: None,
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

    #[test]
    fn another_tokenizer_or_text_is_refused_by_name_with_both_hashes() {
        let run = resolved(&[]);
        let files = |word: &str| Some([format!("{word}-index"), format!("{word}-tokens")]);
        let corpus = |path: &str| CorpusHashes {
            path: path.into(),
            training: files(path),
            validation: files("held-out"),
        };
        let hashes = DataHashes { tokenizer: "t".into(), corpora: vec![corpus("a"), corpus("b")] };
        let check = |before: Option<DataHashes>, now: &DataHashes| {
            check_data(
                Path::new("step-10"),
                &ManifestHead { data: before, ..head(&run, None) },
                now,
                &run.run,
            )
        };
        check(None, &hashes).unwrap();
        check(Some(hashes.clone()), &hashes).unwrap();
        let changed = |change: &dyn Fn(&mut DataHashes)| {
            let mut now = hashes.clone();
            change(&mut now);
            check(Some(hashes.clone()), &now).unwrap_err()
        };
        for (problem, words) in [
            (
                changed(&|now| now.tokenizer = "u".into()),
                "another tokenizer than out/run/data/tokenizer.json: its BLAKE3 was t, now it is u",
            ),
            (
                changed(&|now| now.corpora[1].training = files("c")),
                "another training text of corpus b: its BLAKE3 was b-tokens, now it is c-tokens",
            ),
            (
                changed(&|now| now.corpora[0].validation = None),
                "another held-out text of corpus a: its BLAKE3 was held-out-tokens, now it is none",
            ),
            (changed(&|now| drop(now.corpora.pop())), "trained with 2 corpora, the run has 1"),
        ] {
            assert!(problem.problem.contains(words), "{problem}");
            assert_eq!(problem.kind, ProblemKind::Input);
            assert!(problem.hint.contains("another `folder`"), "{problem}");
        }
    }
}
