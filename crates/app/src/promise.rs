//! What a run is promised before it begins: its memory from shapes alone; time and money from a measured profile.

use crate::failure::{Failure, Result};
use crate::profile;
use lingot_data::Dataset;
use lingot_plan::profile::Profile;
use lingot_plan::{Catalogue, predict};
use lingot_spec::RunSpec;
use lingot_spec::event::Prediction;
use lingot_spec::run::{Recompute, RecomputeSpec, Strategy};
use lingot_spec::step::{self, Batch};
use lingot_train::schedule;
use std::path::Path;

/// Of an evaluation's tokens, the time that training them would take: forward is one of three equal parts.
const EVALUATION_SHARE: f64 = 1.0 / 3.0;

/// The prediction that a run's log begins with; none for fleets, whose shares are found by measuring.
pub fn prediction(run: &RunSpec, dataset: &Dataset, place: Option<&Path>) -> Result<Option<Prediction>> {
    let is_single = run.devices.is_empty() && run.sync.strategy == Strategy::EveryStep;
    match place {
        None if !is_single => return Ok(None),
        Some(place) if !is_single => {
            return Err(Failure::input(
                format!("{} is the profile of one device, and this run has several", place.display()),
                "leave --profile out; `lingot bench fleet` predicts and measures fleets",
            ));
        }
        _ => {}
    }
    let policies = policies(run);
    let batch = |micros: u32| Batch {
        micro: run.batch.micro as usize,
        micros: micros as usize,
        sequence: run.data.sequence as usize,
        recompute: &policies,
        warming: false,
    };
    let micros = run.batch.sequences.div_ceil(run.batch.micro.max(1));
    // The routing warmup needs the most.
    let warming = run.model.router.warmup_steps > 0;
    let memory_bytes = step::step(&run.model, &Batch { warming, ..batch(micros) }).memory.peak_bytes;
    let Some(place) = place else {
        let from = "shapes alone".to_owned();
        return Ok(Some(Prediction { from, memory_bytes: Some(memory_bytes), ..Prediction::default() }));
    };
    let profile = profile::read(place)?;
    let [one, whole] = [1, micros].map(|micros| predict::step(&run.model, &batch(micros), &profile));
    let mut missing: Vec<String> =
        whole.unknown.iter().map(|op| format!("`{op}` is not in the profile: its time is missing")).collect();
    missing.extend(other_device(run, &profile));
    missing.push(
        "saving checkpoints is not predicted; an evaluation is taken for a third of training on its text"
            .into(),
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
    Ok(Some(Prediction {
        from: place.display().to_string(),
        step_s: Some(whole.seconds),
        seconds: Some(seconds),
        memory_bytes: Some(memory_bytes),
        money: run.price.as_ref().map(|price| price.per_hour * seconds / 3600.0),
        missing,
        ..Prediction::default()
    }))
}

fn policies(run: &RunSpec) -> Vec<Recompute> {
    match &run.device.recompute {
        RecomputeSpec::All(policy) => vec![*policy],
        RecomputeSpec::Each(policies) => policies.clone(),
    }
}

/// Evaluations of a whole run: every so many steps, and at the end.
fn evaluations(run: &RunSpec) -> u64 {
    let regular = run.stop.steps.checked_div(run.evaluation.every).unwrap_or(0);
    let ends_with_one = run.evaluation.every > 0 && run.stop.steps.is_multiple_of(run.evaluation.every);
    regular + u64::from(!ends_with_one)
}

/// That the profile is of another device, or of other threads.
fn other_device(run: &RunSpec, profile: &Profile) -> Option<String> {
    let threads = run.device.threads as usize;
    // Its name comes first, then what it is.
    let device = profile.device.split(", ").next().unwrap_or_default();
    if run.device.name != device {
        return Some(format!("the profile is of {device}, the run is for {}", run.device.name));
    }
    let is_same = threads == 0 || threads == profile.threads;
    (!is_same).then(|| format!("the profile is of {} threads, the run has {threads}", profile.threads))
}

/// What overrides a run's price by that of a chip of the catalogue.
pub fn price_as(chip: &str) -> Result<Vec<String>> {
    let refused = |error: lingot_spec::Problem| Failure::input(error.problem, error.hint);
    let catalogue = Catalogue::built_in().map_err(refused)?;
    let chip = catalogue.chip(chip).map_err(refused)?;
    let price = chip.price.as_ref().ok_or_else(|| {
        Failure::input(
            format!("chip `{}` has no price in the catalogue", chip.name),
            "give it one: --set price.per_hour=2.5 --set price.currency=USD",
        )
    })?;
    Ok(vec![format!("price.per_hour={:?}", price.per_hour), format!("price.currency={:?}", price.currency)])
}
