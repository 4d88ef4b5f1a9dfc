//! The learning rate and the batch of a step: pure functions of the step.
//!
//! Steps count from 0 here: step `s` is the one that follows after `s` have been taken.

use lingot_spec::run::{BatchSpec, ScheduleSpec, Shape};

/// Returns the learning rate of step `step` in a run of `steps`.
///
/// Warmup is linear from 0, its last step has the full rate. The shape begins at `turn` (a share of the run)
/// or after the warmup, whichever is later; with `p` the share of what then remains, this step included:
///
/// ```text
/// constant      1
/// halving       1/2
/// cosine        floor + (1 - floor) * (1 + cos(pi * p)) / 2
/// inverse_sqrt  1 / sqrt(1 + p * (1 / floor^2 - 1))        1 at p = 0, floor at p = 1
/// ```
pub fn rate(schedule: &ScheduleSpec, peak: f64, step: u64, steps: u64) -> f64 {
    let done = step.saturating_add(1) as f64;
    if step < schedule.warmup_steps {
        return peak * done / schedule.warmup_steps as f64;
    }
    let begin = (schedule.turn * steps as f64).max(schedule.warmup_steps as f64);
    if done <= begin {
        return peak;
    }
    let share = if step.saturating_add(1) >= steps { 1.0 } else { (done - begin) / (steps as f64 - begin) };
    peak * factor(schedule, share)
}

/// Returns the sequences of step `step`. The ramp is linear and moves in multiples of `micro`.
pub fn sequences_at(batch: &BatchSpec, step: u64) -> u32 {
    if !ramps(batch) || step >= batch.ramp_steps {
        return batch.sequences;
    }
    let micros = u128::from(ramp_micros(batch)) * u128::from(step) / u128::from(batch.ramp_steps);
    // At most `sequences - from`, because step < ramp_steps.
    batch.from + micros as u32 * batch.micro
}

/// Returns the sequences of all steps before `step`: where its first sample lies.
pub fn first_sample(batch: &BatchSpec, step: u64) -> u64 {
    if !ramps(batch) {
        return step * u64::from(batch.sequences);
    }
    let inside = step.min(batch.ramp_steps);
    let micros = sum_of_floors(inside.into(), ramp_micros(batch).into(), batch.ramp_steps.into());
    inside * u64::from(batch.from)
        + micros as u64 * u64::from(batch.micro)
        + (step - inside) * u64::from(batch.sequences)
}

fn factor(schedule: &ScheduleSpec, share: f64) -> f64 {
    let floor = schedule.floor;
    match schedule.shape {
        Shape::Constant => 1.0,
        Shape::Halving => 0.5,
        Shape::Cosine | Shape::InverseSqrt if share >= 1.0 => floor,
        Shape::Cosine => floor + (1.0 - floor) * (1.0 + (std::f64::consts::PI * share).cos()) / 2.0,
        Shape::InverseSqrt => 1.0 / (1.0 + share * (1.0 / (floor * floor) - 1.0)).sqrt(),
    }
}

fn ramps(batch: &BatchSpec) -> bool {
    batch.from > 0 && batch.from < batch.sequences && batch.ramp_steps > 0 && batch.micro > 0
}

/// Height of the ramp, in micro-batches.
fn ramp_micros(batch: &BatchSpec) -> u32 {
    (batch.sequences - batch.from) / batch.micro
}

/// The sum of `floor(i * a / m)` over `0 <= i < n`, in as many turns as Euclid's algorithm takes.
fn sum_of_floors(mut n: u128, mut a: u128, mut m: u128) -> u128 {
    let (mut sum, mut b) = (0, 0);
    loop {
        if n > 0 {
            sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
        }
        (a, b) = (a % m, b % m);
        let top = a * n + b;
        if top < m {
            return sum;
        }
        (n, b) = (top / m, top % m);
        (m, a) = (a, m);
    }
}
