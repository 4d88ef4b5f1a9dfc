//! The arithmetic of a step on any one device: micro-batches to gradients, gradients to an outcome, a step
//! alone.

use crate::data::{StepBatch, rows};
use crate::optimizer::{At, Optimizer};
use lingot_data::Batch;
use lingot_model::random::Stream;
use lingot_model::{Gradients, Inputs, Losses, Model, Noise, Reading, Seam, Totals, Warmth};
use lingot_spec::RunSpec;
use lingot_spec::problem::Result;

/// Sets the stream of routing noise apart from others with the same seed.
const PURPOSE_NOISE: u64 = 2;

/// What a step found out before the update.
pub(crate) struct Outcome {
    /// Means over the step's tokens.
    pub(crate) losses: Losses,
    /// The global norm, before clipping.
    pub(crate) gradient_norm: f64,
    /// How often each expert was chosen, by routed layer.
    pub(crate) loads: Vec<Vec<i32>>,
    /// Sums of each router's logits and of their squares; none where several steps were taken.
    pub(crate) moments: Vec<[f64; 2]>,
}

impl Outcome {
    /// Reads the outcome from gradients that hold a whole step. Waits for the device, once.
    pub(crate) fn read(
        run: &RunSpec,
        gradients: &Gradients,
        optimizer: &Optimizer,
        totals: Totals,
    ) -> Result<Outcome> {
        optimizer.sum_squares(gradients)?;
        let Reading { counts, squares } = gradients.tally.read()?;
        Ok(Outcome {
            losses: counts.losses(&run.model, totals, run.data.sequence as usize),
            gradient_norm: squares.sqrt(),
            moments: counts.moments(),
            loads: counts.loads,
        })
    }

    /// Whether the step may be applied.
    pub(crate) fn is_finite(&self) -> bool {
        self.losses.total.is_finite() && self.gradient_norm.is_finite()
    }
}

/// A micro-batch within its step.
pub(crate) struct Micro<'a> {
    /// Steps taken before this one.
    pub(crate) step: u64,
    /// Where its first sequence lies among the step's sequences.
    pub(crate) first_sequence: u64,
    pub(crate) batch: &'a Batch,
    /// Of the whole step.
    pub(crate) totals: Totals,
}

/// Copies a micro-batch to a model's device.
pub(crate) fn upload(model: &Model, batch: &Batch) -> Result<Inputs> {
    Ok(Inputs::new(&model.device, rows(batch), model.spec.mtp_layers > 0)?)
}

/// Adds a micro-batch, whose `inputs` are on the device, to the gradients and the tally of a model.
pub(crate) fn differentiate(
    run: &RunSpec,
    model: &Model,
    gradients: &Gradients,
    micro: &Micro<'_>,
    inputs: &Inputs,
) -> Result<()> {
    let (step, warmup) = (micro.step, run.model.router.warmup_steps);
    let noise = |layer: usize| noise(run, step, layer, micro.first_sequence, micro.batch);
    let warmth =
        (step < warmup).then(|| Warmth { keep: step as f64 / warmup as f64, noise: Noise::Drawn(&noise) });
    Ok(model.differentiate(inputs, micro.totals, warmth, &run.device.recompute.policies(), gradients)?)
}

/// Takes one step of a model alone, after the warm-up of routing. Its weights may still be on their way
/// through `seam`. The gradients must be cleared before. A step without a finite loss or gradient is not
/// applied.
pub(crate) fn step_alone(
    run: &RunSpec,
    at: At,
    model: &Model,
    optimizer: &Optimizer,
    gradients: &Gradients,
    batch: &StepBatch,
    seam: &dyn Seam,
) -> Result<Outcome> {
    for micro in &batch.micros {
        let inputs = upload(model, micro)?;
        model.through(seam).differentiate(
            &inputs,
            batch.totals,
            None,
            &run.device.recompute.policies(),
            gradients,
        )?;
    }
    let outcome = Outcome::read(run, gradients, optimizer, batch.totals)?;
    if outcome.is_finite() {
        optimizer.update(model, gradients, &run.optimizer, at.rate, at.step + 1)?;
        model.balance(&gradients.tally)?;
    }
    Ok(outcome)
}

/// The noise of stochastic routing warm-up: a function of seed, step, layer and sample alone.
fn noise(run: &RunSpec, step: u64, layer: usize, first_sequence: u64, micro: &Batch) -> Vec<f32> {
    let experts = run.model.experts as usize;
    (0..micro.sequences as u64)
        .flat_map(|sequence| {
            let words = [run.seed, PURPOSE_NOISE, step, layer as u64, first_sequence + sequence];
            Stream::new(&words).normal_values(micro.sequence * experts, 1.0)
        })
        .collect()
}
