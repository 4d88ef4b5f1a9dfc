//! The training step that benchmarks time.
//!
//! A step is: move the batch to the device, clear the gradients, forward, backward, read the losses and the
//! gradient's norm, clip, AdamW, selection biases. The pieces are those of `model` and `train`. A run's own
//! loop does more (it fetches, records and guards), which would be timed with it; `bench/peer_torch.py` times
//! these same pieces.

use crate::case::{SEED, Sequences};
use lingot_device::{Device, Kind};
use lingot_model::{Gradients, Inputs, Model, Totals, Warmth};
use lingot_spec::ModelSpec;
use lingot_spec::Result;
use lingot_spec::run::{OptimizerSpec, Recompute};
use lingot_train::optimizer::Optimizer;
use std::time::Instant;

/// The learning rate of every step.
const RATE: f64 = 3e-4;

/// A model in training.
pub(crate) struct Training {
    model: Model,
    gradients: Gradients,
    optimizer: Optimizer,
    /// Steps taken so far.
    pub(crate) steps: u64,
}

/// Seconds that making a model took.
pub(crate) struct Made {
    /// Drawing the weights and moving them to the device.
    pub(crate) weights_s: f64,
    /// Gradients and the optimizer's state.
    pub(crate) state_s: f64,
}

/// A step that was taken.
pub(crate) struct Taken {
    pub(crate) loss: f64,
    pub(crate) seconds: f64,
}

impl Training {
    pub(crate) fn new(spec: &ModelSpec, device: &Device, kind: Kind) -> Result<Training> {
        Ok(Training::timed(spec, device, kind)?.0)
    }

    /// As `new`, and how long its parts took. Waits for the device.
    pub(crate) fn timed(spec: &ModelSpec, device: &Device, kind: Kind) -> Result<(Training, Made)> {
        let begin = Instant::now();
        let model = Model::new(spec, device, kind, SEED)?;
        device.finish()?;
        let weights_s = begin.elapsed().as_secs_f64();
        let (gradients, optimizer) = (model.gradients()?, Optimizer::new(&model)?);
        device.finish()?;
        let state_s = begin.elapsed().as_secs_f64() - weights_s;
        Ok((Training { gradients, optimizer, model, steps: 0 }, Made { weights_s, state_s }))
    }

    /// Takes the next step on these micro-batches. Waits for the device.
    pub(crate) fn step(
        &mut self,
        micros: &[Sequences],
        warmth: Option<Warmth<'_>>,
        recompute: Recompute,
    ) -> Result<Taken> {
        let Training { model, gradients, optimizer, .. } = self;
        let has_mtp = model.spec.mtp_layers > 0;
        let sequence = micros.first().map_or(0, |micro| micro.rows().sequence);
        let start = Instant::now();
        let mut totals = Totals::default();
        micros.iter().for_each(|micro| totals.add(&micro.rows(), has_mtp));
        gradients.clear()?;
        for micro in micros {
            let inputs = Inputs::new(&model.device, micro.rows(), has_mtp)?;
            model.differentiate(&inputs, totals, warmth, &[recompute], gradients)?;
        }
        optimizer.sum_squares(gradients)?;
        let losses = gradients.tally.read()?.counts.losses(&model.spec, totals, sequence);
        self.steps += 1;
        optimizer.update(model, gradients, &OptimizerSpec::default(), RATE, self.steps)?;
        model.balance(&gradients.tally)?;
        model.device.finish()?;
        Ok(Taken { loss: losses.total, seconds: start.elapsed().as_secs_f64() })
    }

    /// The busiest expert's visits over the mean expert's in the latest step, the largest of all layers.
    pub(crate) fn imbalance(&self) -> Result<f64> {
        let worst = |loads: &Vec<i32>| {
            let most = f64::from(loads.iter().copied().max().unwrap_or(0));
            most * loads.len() as f64 / f64::from(loads.iter().sum::<i32>()).max(1.0)
        };
        Ok(self.gradients.tally.loads()?.iter().map(worst).fold(0.0, f64::max))
    }
}
