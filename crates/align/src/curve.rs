//! Level *curve*: the same seed and data on both devices, step by step. Level *move*: trained here, continued there.

use crate::Progress;
use crate::faults::{Planted, Wiring, faulty};
use crate::task;
use crate::trainer::Trainer;
use lingot_device::{Device, Precision};
use lingot_spec::Result;
use serde::{Deserialize, Serialize};

/// The mean relative difference of losses that passes: a tenth of what the Ling team judged sufficient, and that.
pub fn bound(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::Bf16 => 1e-3,
    }
}

/// Points that a report keeps of a curve.
const POINTS: usize = 250;

/// How one model's loss fared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurveReport {
    pub model: String,
    pub steps: u64,
    /// Of `|candidate - reference| / reference`, over all steps.
    pub mean: f64,
    pub max: f64,
    pub max_step: u64,
    /// The mean with its sign: a device that is wrong on one side has one.
    pub signed_mean: f64,
    /// The same mean between each two seeds on the reference, and the mean of these.
    pub seed_noises: Vec<f64>,
    pub seed_noise: f64,
    pub bound: f64,
    pub passed: bool,
    /// First step with a difference beyond the bound for its running mean over 50 steps.
    pub parted_at: Option<u64>,
    /// Of a run: its held-out losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutReport>,
    /// Every so many steps the losses are kept.
    pub every: u64,
    pub reference: Vec<f64>,
    pub candidate: Vec<f64>,
}

/// The held-out losses, one by one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutReport {
    pub reference: Vec<f64>,
    pub candidate: Vec<f64>,
    /// Of the same run with other seeds.
    pub seeds: Vec<Vec<f64>>,
    /// The mean of `|candidate - reference| / reference`.
    pub difference: f64,
    /// The mean of that between each two seeds.
    pub seed_noise: f64,
}

/// What to train and for how long.
#[derive(Clone, Copy, Debug)]
pub struct CurvePlan {
    pub steps: u64,
    pub seed: u64,
    pub precision: Precision,
    pub planted: Option<Planted>,
    /// Seeds that are trained on the reference, to see how much they differ: 1 for none but its own.
    pub seeds: u64,
}

/// Trains both models on the reference, and on the candidate as often as `starts` has steps: from 0 all the way, from a
/// later step on with what the reference has come to. Reports by start, then by model.
pub fn check(
    reference: &Device,
    candidate: &Device,
    plan: CurvePlan,
    starts: &[u64],
    progress: Progress<'_>,
) -> Result<Vec<Vec<CurveReport>>> {
    let candidate = faulty(candidate, plan.planted);
    let mut reports = vec![vec![]; starts.len()];
    for (name, spec) in task::models() {
        let found = one(name, &spec, [reference, &candidate], plan, starts, progress)?;
        reports.iter_mut().zip(found).for_each(|(reports, report)| reports.push(report));
    }
    Ok(reports)
}

fn one(
    name: &str,
    spec: &lingot_spec::ModelSpec,
    [reference, candidate]: [&Device; 2],
    plan: CurvePlan,
    starts: &[u64],
    progress: Progress<'_>,
) -> Result<Vec<CurveReport>> {
    let CurvePlan { steps, seed, .. } = plan;
    let on_reference = |other: u64| Trainer::new(spec, reference, seed + other, seed, Wiring(None));
    let mut here = on_reference(0)?;
    let mut others = (1..plan.seeds).map(on_reference).collect::<Result<Vec<_>>>()?;
    let there = |_| Trainer::new(spec, candidate, seed, seed, Wiring(plan.planted));
    let mut candidates = starts.iter().map(there).collect::<Result<Vec<_>>>()?;
    let mut losses = vec![];
    let mut found = vec![vec![]; candidates.len()];
    let mut noise = vec![vec![]; others.len()];
    for step in 0..steps {
        progress(&format!("curve {name}"), step, steps);
        for ((there, &start), found) in candidates.iter_mut().zip(starts).zip(&mut found) {
            if start == step && start > 0 {
                there.take_over(&here)?;
            }
            if start <= step {
                found.push(there.step()?);
            }
        }
        let loss = here.step()?;
        losses.push(loss);
        found.iter_mut().filter(|found| found.len() < losses.len()).for_each(|found| found.push(loss));
        for (other, losses) in others.iter_mut().zip(&mut noise) {
            losses.push(other.step()?);
        }
    }
    let bound = bound(plan.precision);
    Ok(found.iter().map(|found| report(name, &losses, found, &noise, bound)).collect())
}

/// Holds one curve against another, and against how far those of other seeds lie apart.
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
        // Not `>` negated: a loss that is not a number does not pass.
        passed: mean <= bound,
        parted_at: parted_at.map(|step| step as u64),
        held_out: None,
        every: every as u64,
        reference: kept(reference),
        candidate: kept(candidate),
    }
}

/// Of each step, as a share of the first.
pub(crate) fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| (b - a) / a).collect()
}

pub(crate) fn mean_size(values: &[f64]) -> f64 {
    values.iter().map(|x| x.abs()).sum::<f64>() / values.len().max(1) as f64
}

/// `distance` of each two.
pub(crate) fn between<T>(all: &[T], distance: impl Fn(&T, &T) -> f64) -> Vec<f64> {
    let pairs = all.iter().enumerate().flat_map(|(i, a)| all[i + 1..].iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| distance(a, b)).collect()
}
