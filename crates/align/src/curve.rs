//! Level *curve*: the same seed and data on both devices, step by step. Level *move*: trained here, continued there.

use crate::Progress;
use crate::faults::{Planted, Wiring, faulty};
use crate::task;
use crate::trainer::Trainer;
use lingot_device::{Device, Precision};
use lingot_train::Result;
use serde::{Deserialize, Serialize};

/// The mean relative difference of losses that passes: a tenth of what the Ling team judged sufficient, and that.
pub fn bound(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::Bf16 => 1e-3,
    }
}

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
    /// The same mean between two seeds of initial weights on the reference.
    pub seed_noise: f64,
    pub bound: f64,
    pub passed: bool,
    /// First step with a difference beyond the bound for its running mean over 50 steps.
    pub parted_at: Option<u64>,
    pub reference: Vec<f64>,
    pub candidate: Vec<f64>,
}

/// What to train and for how long.
#[derive(Clone, Copy, Debug)]
pub struct CurvePlan {
    pub steps: u64,
    pub seed: u64,
    pub precision: Precision,
    pub planted: Option<Planted>,
    /// Trained so far on the reference, then continued on the candidate.
    pub moved_at: Option<u64>,
    /// Whether a second seed is trained, to see how much it differs.
    pub with_noise: bool,
}

/// Trains both models on both devices.
pub fn check(
    reference: &Device,
    candidate: &Device,
    plan: CurvePlan,
    progress: Progress<'_>,
) -> Result<Vec<CurveReport>> {
    let candidate = faulty(candidate, plan.planted);
    task::models()
        .iter()
        .map(|(name, spec)| one(name, spec, [reference, &candidate], plan, progress))
        .collect()
}

fn one(
    name: &str,
    spec: &lingot_spec::ModelSpec,
    [reference, candidate]: [&Device; 2],
    plan: CurvePlan,
    progress: Progress<'_>,
) -> Result<CurveReport> {
    let CurvePlan { steps, seed, .. } = plan;
    let mut here = Trainer::new(spec, reference, seed, seed, Wiring(None))?;
    let mut there = Trainer::new(spec, candidate, seed, seed, Wiring(plan.planted))?;
    let with_noise = plan.with_noise;
    let other = with_noise.then(|| Trainer::new(spec, reference, seed + 1, seed, Wiring(None)));
    let mut other = other.transpose()?;
    let (mut losses, mut found, mut noise) = (vec![], vec![], 0.0);
    let label = if plan.moved_at.is_some() { "move" } else { "curve" };
    for step in 0..steps {
        progress(&format!("{label} {name}"), step, steps);
        if plan.moved_at == Some(step) {
            there.take_over(&here)?;
        }
        let loss = here.step()?;
        let has_moved = plan.moved_at.is_none_or(|at| step >= at);
        losses.push(loss);
        found.push(if has_moved { there.step()? } else { loss });
        if let Some(other) = &mut other {
            noise += (other.step()? - loss).abs() / loss;
        }
    }
    Ok(report(name, losses, found, noise / steps as f64, bound(plan.precision)))
}

fn report(name: &str, reference: Vec<f64>, candidate: Vec<f64>, seed_noise: f64, bound: f64) -> CurveReport {
    let relative: Vec<f64> = reference.iter().zip(&candidate).map(|(a, b)| (b - a) / a).collect();
    let count = relative.len().max(1) as f64;
    let mean = relative.iter().map(|x| x.abs()).sum::<f64>() / count;
    let signed_mean = relative.iter().sum::<f64>() / count;
    let (max_step, max) = relative
        .iter()
        .map(|x| x.abs())
        .enumerate()
        .fold((0, 0.0), |most, (step, x)| if x > most.1 { (step, x) } else { most });
    let running = |window: &[f64]| window.iter().map(|x| x.abs()).sum::<f64>() / window.len() as f64;
    let parted_at =
        relative.windows(50.min(relative.len().max(1))).position(|window| running(window) > bound);
    CurveReport {
        model: name.into(),
        steps: reference.len() as u64,
        mean,
        max,
        max_step: max_step as u64,
        signed_mean,
        seed_noise,
        bound,
        // Not `>` negated: a loss that is not a number does not pass.
        passed: mean <= bound,
        parted_at: parted_at.map(|step| step as u64),
        reference,
        candidate,
    }
}
