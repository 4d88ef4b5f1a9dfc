//! Level *curve*: training from the same seed and data on both devices, step by step. Level *move*: training
//! that begins on the reference and continues on the candidate.

use crate::Progress;
use crate::faults::{Planted, Wiring, faulty};
use crate::task::{self, Task};
use crate::trainer::Trainer;
use lingot_device::{Device, Kind, Precision};
use lingot_spec::Result;
use serde::{Deserialize, Serialize};

/// The mean relative difference of losses that passes between devices of these precisions: with bf16 what
/// the Ling report calls sufficient, in f32 a tenth.
pub fn bound(precisions: [Precision; 2]) -> f64 {
    if precisions.contains(&Precision::Bf16) { 1e-3 } else { 1e-4 }
}

/// Most points of a curve that a report keeps.
const POINTS: usize = 250;

/// The comparison of one model's losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurveReport {
    /// The model's name.
    pub model: String,
    /// Steps compared.
    pub steps: u64,
    /// Mean of `|candidate - reference| / reference` over all steps.
    pub mean: f64,
    /// The largest of these.
    pub max: f64,
    /// Its step.
    pub max_step: u64,
    /// The mean with signs: far from 0 where a device errs to one side.
    pub signed_mean: f64,
    /// The same mean between each two seeds on the reference.
    pub seed_noises: Vec<f64>,
    /// The mean of `seed_noises`.
    pub seed_noise: f64,
    /// The largest mean that passes.
    pub bound: f64,
    /// The verdict.
    pub passed: bool,
    /// First step of the first 50 whose mean difference exceeds the bound.
    pub parted_at: Option<u64>,
    /// The first steps of a run that was trained again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstSteps>,
    /// What decided about a run that was trained again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<JudgedBy>,
    /// The held-out losses of a run that was trained again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutReport>,
    /// Steps between two kept losses.
    pub every: u64,
    /// Kept losses on the reference.
    pub reference: Vec<f64>,
    /// Kept losses on the candidate.
    pub candidate: Vec<f64>,
}

/// What a run was judged by, in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgedBy {
    /// The first steps, which failed.
    FirstSteps,
    /// The losses of all steps.
    Curve,
    /// The held-out losses.
    HeldOut,
}

/// The comparison of a run's first steps, before rounding has grown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstSteps {
    /// Steps compared.
    pub steps: u64,
    /// The largest relative difference between candidate and log, of a loss or a gradient norm.
    pub difference: f64,
    /// Its step.
    pub step: u64,
    /// What differed most there: `loss` or `gradient norm`.
    pub quantity: String,
    /// The same difference between the definitions and the log; absent where the definitions would have
    /// taken too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_definition: Option<f64>,
    /// The largest difference that passes.
    pub bound: f64,
    /// The verdict.
    pub passed: bool,
}

/// The comparison of held-out losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutReport {
    /// Losses on the reference, by evaluation.
    pub reference: Vec<f64>,
    /// Losses on the candidate, by evaluation.
    pub candidate: Vec<f64>,
    /// Losses of the same run with other seeds.
    pub seeds: Vec<Vec<f64>>,
    /// Mean of `|candidate - reference| / reference`.
    pub difference: f64,
    /// Mean of the same difference between each two seeds.
    pub seed_noise: f64,
}

/// What to train and for how long.
#[derive(Clone, Copy, Debug)]
pub struct CurvePlan {
    /// Steps of each training; the wide model takes a tenth of them.
    pub steps: u64,
    /// Seeds the weights and the text.
    pub seed: u64,
    /// The precisions of the reference and of the candidate, which decide the bound.
    pub precisions: [Precision; 2],
    /// The fault of the candidate, in a self-test.
    pub planted: Option<Planted>,
    /// Seeds trained on the reference, to show how much they differ; 1 for its own alone.
    pub seeds: u64,
}

/// Trains each model on the reference and, once per step in `starts`, on the candidate: from 0 the whole
/// curve, from a later step the rest of it, with the reference's state at that step. Returns reports by
/// start, then by model.
pub fn check(
    reference: &Device,
    candidate: &Device,
    plan: CurvePlan,
    starts: &[u64],
    progress: Progress<'_>,
) -> Result<Vec<Vec<CurveReport>>> {
    let candidate = faulty(candidate, plan.planted);
    let mut reports = vec![vec![]; starts.len()];
    for task in task::tasks() {
        let starts: Vec<u64> = starts.iter().map(|start| start / task.shorter).collect();
        let found = one(&task, [reference, &candidate], plan, &starts, progress)?;
        reports.iter_mut().zip(found).for_each(|(reports, report)| reports.push(report));
    }
    Ok(reports)
}

fn one(
    task: &Task,
    [reference, candidate]: [&Device; 2],
    plan: CurvePlan,
    starts: &[u64],
    progress: Progress<'_>,
) -> Result<Vec<CurveReport>> {
    let (seed, steps) = (plan.seed, (plan.steps / task.shorter).max(2));
    let kinds = plan.precisions.map(Kind::from);
    let on_reference =
        |other: u64| Trainer::new(task, reference, kinds[0], [seed + other, seed], Wiring(None));
    let mut here = on_reference(0)?;
    let mut others = (1..plan.seeds).map(on_reference).collect::<Result<Vec<_>>>()?;
    let there = |_| Trainer::new(task, candidate, kinds[1], [seed; 2], Wiring(plan.planted));
    let mut candidates = starts.iter().map(there).collect::<Result<Vec<_>>>()?;
    let mut losses = vec![];
    let mut found = vec![vec![]; candidates.len()];
    let mut noise = vec![vec![]; others.len()];
    for step in 0..steps {
        progress(&format!("curve {}", task.name), step, steps);
        for ((there, &start), found) in candidates.iter_mut().zip(starts).zip(&mut found) {
            if start == step && start > 0 {
                there.take_over(&here)?;
            }
            if start <= step {
                found.push(there.step()?.losses.main);
            }
        }
        let loss = here.step()?.losses.main;
        losses.push(loss);
        found.iter_mut().filter(|found| found.len() < losses.len()).for_each(|found| found.push(loss));
        for (other, losses) in others.iter_mut().zip(&mut noise) {
            losses.push(other.step()?.losses.main);
        }
    }
    let bound = bound(plan.precisions);
    Ok(found.iter().map(|found| report(task.name, &losses, found, &noise, bound)).collect())
}

/// Compares one curve with another, and with the noise between curves of other seeds.
pub(crate) fn report(
    name: &str,
    reference: &[f64],
    candidate: &[f64],
    others: &[Vec<f64>],
    bound: f64,
) -> CurveReport {
    let relative = differences(reference, candidate);
    let (max_step, max) = relative
        .iter()
        .map(|x| x.abs())
        .enumerate()
        .fold((0, 0.0), |most, (step, x)| if x > most.1 { (step, x) } else { most });
    let mean = mean_size(&relative);
    let parted_at =
        relative.windows(50.min(relative.len().max(1))).position(|window| mean_size(window) > bound);
    let seeds: Vec<&[f64]> = std::iter::once(reference).chain(others.iter().map(Vec::as_slice)).collect();
    let seed_noises = between(&seeds, |a, b| mean_size(&differences(a, b)));
    let every = reference.len().div_ceil(POINTS).max(1);
    let kept = |losses: &[f64]| losses.iter().copied().step_by(every).collect();
    CurveReport {
        model: name.into(),
        steps: reference.len() as u64,
        mean,
        max,
        max_step: max_step as u64,
        signed_mean: relative.iter().sum::<f64>() / relative.len().max(1) as f64,
        seed_noise: mean_size(&seed_noises),
        seed_noises,
        bound,
        // NaN is not within the bound either.
        passed: mean <= bound,
        parted_at: parted_at.map(|step| step as u64),
        first: None,
        judged_by: None,
        held_out: None,
        every: every as u64,
        reference: kept(reference),
        candidate: kept(candidate),
    }
}

/// The difference of each step, relative to the first curve.
pub(crate) fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| (b - a) / a).collect()
}

/// The mean of the absolute values; 0 of none.
pub(crate) fn mean_size(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |sum, x| sum + x.abs()) / values.len().max(1) as f64
}

/// The distance of each two.
pub(crate) fn between<T>(all: &[T], distance: impl Fn(&T, &T) -> f64) -> Vec<f64> {
    let pairs = all.iter().enumerate().flat_map(|(i, a)| all[i + 1..].iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| distance(a, b)).collect()
}
