//! What a run is predicted to take: its memory from shapes alone, its time and money from a measured profile.

use crate::failure::{Failure, Result};
use crate::profile;
use lingot_data::Dataset;
use lingot_plan::profile::Profile;
use lingot_plan::{Catalogue, predict};
use lingot_spec::RunSpec;
use lingot_spec::event::Prediction;
use lingot_spec::run::Strategy;
use lingot_spec::step::{self, Batch};
use lingot_train::schedule;
use std::path::Path;

/// Time of evaluating a token over the time of training it: the forward pass is one of three equal parts.
const EVALUATION_SHARE: f64 = 1.0 / 3.0;

/// A profile, and the path that it was read from.
pub struct Measured {
    name: String,
    profile: Profile,
}

/// The profile that `--profile` names. Errors if the run has several devices, whose shares are found by
/// measuring.
pub fn profile_of(run: &RunSpec, path: Option<&Path>) -> Result<Option<Measured>> {
    let Some(path) = path else { return Ok(None) };
    if !has_one_device(run) {
        return Err(Failure::input(
            format!("{} is the profile of one device, and this run has several", path.display()),
            "leave --profile out; `lingot bench fleet` predicts and measures fleets",
        ));
    }
    Ok(Some(Measured { name: path.display().to_string(), profile: profile::read(path)? }))
}

fn has_one_device(run: &RunSpec) -> bool {
    run.devices.is_empty() && run.sync.strategy == Strategy::EveryStep
}

/// The prediction that a run's log begins with; none for a fleet.
pub fn prediction(run: &RunSpec, dataset: &Dataset, measured: Option<&Measured>) -> Option<Prediction> {
    if !has_one_device(run) {
        return None;
    }
    let policies = run.device.recompute.policies();
    let batch = |micros: u32| Batch {
        micro: run.batch.micro as usize,
        micros: micros as usize,
        sequence: run.data.sequence as usize,
        recompute: &policies,
        warming: false,
        widths: run.device.precision.into(),
    };
    let micros = run.batch.sequences.div_ceil(run.batch.micro.max(1));
    // Routing warmup needs the most memory.
    let warming = run.model.router.warmup_steps > 0;
    let memory_bytes = step::step(&run.model, &Batch { warming, ..batch(micros) }).memory.peak_bytes;
    let Some(Measured { name, profile }) = measured else {
        let from = "shapes alone".to_owned();
        return Some(Prediction { from, memory_bytes: Some(memory_bytes), ..Prediction::default() });
    };
    let [one, whole] = [1, micros].map(|micros| predict::step(&run.model, &batch(micros), profile));
    let mut missing: Vec<String> =
        whole.unknown.iter().map(|op| format!("`{op}` is not in the profile: its time is missing")).collect();
    missing.extend(other_device(run, profile));
    missing.push(
        "saving checkpoints is not predicted; an evaluation counts as a third of training on its text".into(),
    );
    let micro_s =
        if micros > 1 { (whole.seconds - one.seconds) / f64::from(micros - 1) } else { one.seconds };
    let per_sequence_s = micro_s / f64::from(run.batch.micro.max(1));
    let trained = schedule::first_sample(&run.batch, run.stop.steps) as f64;
    let update_s = one.seconds - micro_s;
    let evaluated = evaluations(run) as f64
        * dataset.validation_sequences().min(u64::from(run.evaluation.sequences)) as f64;
    let seconds =
        update_s * run.stop.steps as f64 + per_sequence_s * (trained + EVALUATION_SHARE * evaluated);
    Some(Prediction {
        from: name.clone(),
        step_s: Some(whole.seconds),
        seconds: Some(seconds),
        memory_bytes: Some(memory_bytes),
        money: run.price.as_ref().map(|price| price.per_hour * seconds / 3600.0),
        missing,
        ..Prediction::default()
    })
}

/// Evaluations of a whole run: every `evaluation.every` steps, and one at the end.
fn evaluations(run: &RunSpec) -> u64 {
    let regular = run.stop.steps.checked_div(run.evaluation.every).unwrap_or(0);
    let ends_with_one = run.evaluation.every > 0 && run.stop.steps.is_multiple_of(run.evaluation.every);
    regular + u64::from(!ends_with_one)
}

/// A sentence if the profile was measured on another device, in another precision, or with another number of
/// threads.
fn other_device(run: &RunSpec, profile: &Profile) -> Option<String> {
    let threads = run.device.threads as usize;
    // The name comes first, then the description.
    let device = profile.device.split(", ").next().unwrap_or_default();
    if run.device.name != device {
        return Some(format!("the profile is of {device}, the run is for {}", run.device.name));
    }
    if run.device.precision != profile.precision {
        let [of_run, of_profile] =
            [run.device.precision, profile.precision].map(|precision| precision.name());
        return Some(format!("the profile is of {of_profile}, the run computes in {of_run}"));
    }
    let is_same = threads == 0 || threads == profile.threads;
    (!is_same).then(|| format!("the profile is of {} threads, the run has {threads}", profile.threads))
}

/// The overrides that set a run's price to that of a chip of the catalogue.
pub fn price_as(chip: &str) -> Result<Vec<String>> {
    let catalogue = Catalogue::built_in()?;
    let chip = catalogue.chip(chip).map_err(Failure::of_input)?;
    let price = chip.price.as_ref().ok_or_else(|| {
        Failure::input(
            format!("chip `{}` has no price in the catalogue", chip.name),
            "give it one: --set price.per_hour=2.5 --set price.currency=USD",
        )
    })?;
    Ok(vec![format!("price.per_hour={:?}", price.per_hour), format!("price.currency={:?}", price.currency)])
}
