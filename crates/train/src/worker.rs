//! One worker: a model on a device with its optimizer, its data, and how far it has come.

use crate::checkpoint::Tensor;
use crate::evaluate::{self, HeldOut};
use crate::optimizer::Optimizer;
use crate::saving::{Found, Saver};
use crate::schedule;
use crate::stop::Progress;
use lingot_data::{Batch, Dataset};
use lingot_device::Device;
use lingot_device::Kind;
use lingot_model::random::Stream;
use lingot_model::{Gradients, Inputs, Losses, Model, Reach, Rows, Totals, Warmth};
use lingot_spec::RunSpec;
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::{Recompute, RecomputeSpec};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A step that has no finite loss or gradient is skipped; after so many in a row the run gives up.
const SKIPPED_MOST: u32 = 10;

/// Sets the stream of routing noise apart from others with the same seed.
const PURPOSE_NOISE: u64 = 2;

/// What trains.
pub struct Worker<'a> {
    pub model: Model,
    /// Steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The last held-out loss.
    pub held_out: Option<f64>,
    pub(crate) evaluated_step: Option<u64>,
    pub(crate) saved_step: Option<u64>,
    /// Whether an update broke off after it had written: weights and moments are then of no step.
    pub(crate) torn: bool,
    /// The learning rate of the step taken last.
    pub(crate) last_rate: f64,
    /// The checkpoint this process began from, and what was wrong with newer ones.
    pub(crate) resumed: Option<Found>,
    pub(crate) run: &'a RunSpec,
    pub(crate) optimizer: Optimizer,
    pub(crate) saver: Saver,
    pub(crate) clock: Clock,
    /// Of all that computes, where the run has a price.
    per_hour: Option<f64>,
    /// Money spent before the price was the present one, and the seconds that it paid for.
    paid: (f64, f64),
    pub(crate) dataset: &'a Dataset,
    pub(crate) gradients: Gradients,
    /// What a strategy keeps between meetings, for checkpoints; names begin with `sync/`.
    pub(crate) sync_state: Vec<Tensor>,
    skipped: u32,
}

/// Time spent before this process, and since when it works.
pub(crate) struct Clock {
    pub(crate) before_s: f64,
    pub(crate) since: Instant,
}

/// The micro-batches of one step.
pub struct StepBatch {
    pub(crate) micros: Vec<Batch>,
    pub(crate) totals: Totals,
}

impl StepBatch {
    /// What it holds in all.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}

/// What a step found out before the update.
pub struct Outcome {
    pub losses: Losses,
    pub gradient_norm: f64,
    /// Per routed layer and expert.
    pub loads: Vec<Vec<i32>>,
}

impl Outcome {
    /// Of gradients that hold a whole step. Waits for the device.
    pub(crate) fn read(
        run: &RunSpec,
        gradients: &Gradients,
        optimizer: &Optimizer,
        totals: Totals,
    ) -> Result<Outcome> {
        Ok(Outcome {
            losses: gradients.losses(&run.model, totals, run.data.sequence as usize)?,
            gradient_norm: optimizer.gradient_norm(gradients)?,
            loads: gradients.tally.loads()?,
        })
    }

    /// Whether the step may be applied.
    pub fn is_finite(&self) -> bool {
        self.losses.total.is_finite() && self.gradient_norm.is_finite()
    }
}

impl<'a> Worker<'a> {
    /// A fresh worker, or one that goes on from the newest sound checkpoint of the run's folder, whose log so far is
    /// `history`.
    pub fn open(
        run: &'a RunSpec,
        dataset: &'a Dataset,
        device: &Device,
        history: &[Event],
    ) -> Result<Worker<'a>> {
        let (saver, newest) = Saver::open(Path::new(&run.folder))?;
        let model = match &newest {
            Some(_) => Model::blank(&run.model, device, Kind::F32)?,
            None => Model::new(&run.model, device, Kind::F32, run.seed)?,
        };
        let mut worker = Worker {
            gradients: model.gradients()?,
            optimizer: Optimizer::new(&model)?,
            model,
            step: 0,
            tokens: 0,
            held_out: None,
            evaluated_step: None,
            saved_step: None,
            torn: false,
            last_rate: 0.0,
            resumed: None,
            run,
            dataset,
            saver,
            sync_state: Vec::new(),
            clock: Clock { before_s: 0.0, since: Instant::now() },
            per_hour: run.price.as_ref().map(|price| price.per_hour),
            paid: (0.0, 0.0),
            skipped: 0,
        };
        if let Some((path, warnings)) = newest {
            worker.restore(&path, history)?;
            worker.resumed = Some((path, warnings));
        }
        Ok(worker)
    }

    /// The micro-batches of the next step.
    pub fn fetch(&self) -> Result<StepBatch> {
        let sequences = schedule::sequences_at(&self.run.batch, self.step);
        let first = schedule::first_sample(&self.run.batch, self.step);
        let micros = self.micros(first, sequences)?;
        Ok(StepBatch { totals: totals(self.run, &micros), micros })
    }

    /// `sequences` samples, the `first`-th and on, cut into micro-batches.
    pub(crate) fn micros(&self, first: u64, sequences: u32) -> Result<Vec<Batch>> {
        let micro = self.run.batch.micro;
        let from = (0..sequences).step_by(micro as usize);
        from.map(|from| self.dataset.training(first + u64::from(from), micro)).collect()
    }

    /// Losses and gradients of the step, micro-batch by micro-batch.
    pub fn differentiate(&mut self, batch: &StepBatch) -> Result<Outcome> {
        self.gradients.clear()?;
        let mut sample = 0;
        for micro in &batch.micros {
            self.differentiate_micro(micro, sample, batch.totals)?;
            sample += micro.sequences as u64;
        }
        self.outcome(batch.totals)
    }

    /// Adds a micro-batch, whose first sequence is the step's `sample`-th, to the gradients.
    pub(crate) fn differentiate_micro(&self, micro: &Batch, sample: u64, totals: Totals) -> Result<()> {
        differentiate(self.run, self.step, &self.model, &self.gradients, micro, sample, totals)
    }

    /// What the gradients and tallies say, once the step's last micro-batch is in.
    pub(crate) fn outcome(&self, totals: Totals) -> Result<Outcome> {
        Outcome::read(self.run, &self.gradients, &self.optimizer, totals)
    }

    /// Applies the step, or skips it when its loss or gradient is not finite.
    pub fn update(&mut self, batch: &StepBatch, outcome: &Outcome) -> Result<()> {
        let run = self.run;
        self.last_rate = schedule::rate(&run.schedule, run.optimizer.rate, self.step, run.stop.steps);
        if outcome.is_finite() {
            let (rate, torn) = ((self.last_rate, self.step + 1), &mut self.torn);
            self.optimizer.write(&self.model, &self.gradients, &run.optimizer, rate, torn)?;
            self.model.balance(&self.gradients.tally)?;
            if self.step < run.model.router.warmup_steps {
                self.model.follow_logits(&self.gradients.tally, batch.totals, self.step)?;
            }
            self.skipped = 0;
        } else {
            self.skipped += 1;
            if self.skipped >= SKIPPED_MOST {
                return Err(Problem::new(
                    format!(
                        "{} steps in a row had no finite loss or gradient; the last is step {}",
                        self.skipped,
                        self.step + 1
                    ),
                    format!(
                        "lower optimizer.rate ({}) and run the same command again: it goes on from the newest checkpoint",
                        run.optimizer.rate
                    ),
                ));
            }
        }
        self.torn = false;
        self.step += 1;
        self.tokens += batch.totals.tokens;
        Ok(())
    }

    /// The held-out loss now.
    pub(crate) fn evaluate(&self) -> Result<HeldOut> {
        evaluate::held_out(&self.model, self.dataset, &self.run.evaluation, &self.run.batch)
    }

    /// Passes over the training text so far.
    pub(crate) fn epoch(&self) -> f64 {
        self.dataset.epoch(schedule::first_sample(&self.run.batch, self.step))
    }

    /// Seconds spent on the run, all resumptions together.
    pub fn seconds(&self) -> f64 {
        self.clock.before_s + self.clock.since.elapsed().as_secs_f64()
    }

    /// Money spent, where the run has a price.
    pub fn money(&self) -> Option<f64> {
        let (money, seconds) = self.paid;
        self.per_hour.map(|per_hour| money + per_hour * (self.seconds() - seconds) / 3600.0)
    }

    /// From now on all that computes costs so much. Before the first second, it is the price of the whole run.
    pub(crate) fn reprice(&mut self, per_hour: Option<f64>, is_begun: bool) {
        if let Some(money) = self.money().filter(|_| is_begun) {
            self.paid = (money, self.seconds());
        }
        self.per_hour = per_hour;
    }

    /// What decides whether the run goes on.
    pub fn progress(&self) -> Progress {
        Progress {
            step: self.step,
            tokens: self.tokens,
            hours: self.seconds() / 3600.0,
            money: self.money(),
            loss: self.held_out,
        }
    }
}

/// Adds a micro-batch of step `step`, whose first sequence is the step's `sample`-th, to the gradients of a model on
/// any device.
pub(crate) fn differentiate(
    run: &RunSpec,
    step: u64,
    model: &Model,
    gradients: &Gradients,
    micro: &Batch,
    sample: u64,
    totals: Totals,
) -> Result<()> {
    let warmup = run.model.router.warmup_steps;
    let inputs = Inputs::new(&model.device, rows(micro), run.model.mtp_layers > 0)?;
    let noise = |layer: usize| noise(run, step, layer, sample, micro);
    let warmth = (step < warmup).then(|| Warmth { keep: step as f64 / warmup as f64, noise: &noise });
    Ok(model.differentiate(&inputs, totals, warmth, &recompute(run), gradients)?)
}

/// One step of a model alone, after the warm-up of routing, whose weights may still be on their way (`reach`): gradients,
/// which were cleared before, and the update. A step without a finite loss or gradient is not applied.
pub(crate) fn step_alone(
    run: &RunSpec,
    (step, rate): (u64, f64),
    model: &Model,
    optimizer: &Optimizer,
    gradients: &Gradients,
    batch: &StepBatch,
    reach: Reach<'_>,
) -> Result<Outcome> {
    for micro in &batch.micros {
        let inputs = Inputs::new(&model.device, rows(micro), run.model.mtp_layers > 0)?;
        model.differentiate_upon(reach, &inputs, batch.totals, None, &recompute(run), gradients)?;
    }
    let outcome = Outcome::read(run, gradients, optimizer, batch.totals)?;
    if outcome.is_finite() {
        optimizer.update(model, gradients, &run.optimizer, rate, step + 1)?;
        model.balance(&gradients.tally)?;
    }
    Ok(outcome)
}

/// The noise of stochastic routing warmup: depends on seed, step, layer and sample, on nothing else.
fn noise(run: &RunSpec, step: u64, layer: usize, first_sample: u64, micro: &Batch) -> Vec<f32> {
    let experts = run.model.experts as usize;
    (0..micro.sequences as u64)
        .flat_map(|sample| {
            let words = [run.seed, PURPOSE_NOISE, step, layer as u64, first_sample + sample];
            Stream::new(&words).normal_values(micro.sequence * experts, 1.0)
        })
        .collect()
}

/// Makes the shards of a run, unless they are there, and opens them.
pub fn prepare_data(run: &RunSpec, progress: lingot_data::Progress<'_>) -> Result<Dataset> {
    let folder = data_folder(run);
    lingot_data::prepare_to_train(&run.data, run.model.vocabulary, run.seed, &folder, progress)
}

/// The folder of a run's shards and tokenizer.
pub fn data_folder(run: &RunSpec) -> PathBuf {
    run.data.cache.as_ref().map_or_else(|| Path::new(&run.folder).join("data"), PathBuf::from)
}

/// What micro-batches hold in all.
pub(crate) fn totals<'b>(run: &RunSpec, micros: impl IntoIterator<Item = &'b Batch>) -> Totals {
    let mut totals = Totals::default();
    micros.into_iter().for_each(|micro| totals.add(&rows(micro), run.model.mtp_layers > 0));
    totals
}

/// A host batch as the model takes it.
pub(crate) fn rows(batch: &Batch) -> Rows<'_> {
    Rows {
        tokens_t: &batch.tokens,
        targets_t: &batch.targets,
        starts_t: &batch.starts,
        positions_t: &batch.positions,
        sequence: batch.sequence,
    }
}

pub(crate) fn recompute(run: &RunSpec) -> Vec<Recompute> {
    match &run.device.recompute {
        RecomputeSpec::All(policy) => vec![*policy],
        RecomputeSpec::Each(policies) => policies.clone(),
    }
}
