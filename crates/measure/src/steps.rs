//! Times whole training steps on tokens that a formula makes, beside the rate of this machine's matrix products.
//!
//! A step is: move the batch to the device, clear the gradients, forward, backward, read the losses and the gradient's
//! norm, clip, AdamW, selection biases. Making the tokens is not part of it. `bench/peer_torch.py` makes the same
//! weights and tokens by the same formulas.

use crate::case::{self, Case, Routing, SEED, Sequences};
use crate::rate::Rates;
use crate::{memory, rate};
use lingot_device::timed::{Timed, Times};
use lingot_device::{Device, Kind};
use lingot_model::{Gradients, Inputs, Model, Totals, Warmth};
use lingot_spec::ModelSpec;
use lingot_spec::Result;
use lingot_spec::run::{DeviceSpec, OptimizerSpec, Recompute};
use lingot_train::optimizer::Optimizer;
use serde::Serialize;
use std::time::Instant;

/// The learning rate of every step.
const RATE: f64 = 3e-4;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Request {
    /// As in `device.name` of a run.
    pub device: String,
    /// 0 for all processors.
    pub threads: usize,
    /// Timed steps of each routing.
    pub steps: usize,
    pub profile: bool,
    /// Also time steps in which all tokens choose the same experts.
    pub skewed: bool,
}

/// What was measured. The object of `lingot bench train --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub device: String,
    pub threads: usize,
    pub parameters: u64,
    pub tokens_per_step: usize,
    /// Forward and backward, by `spec`'s arithmetic.
    pub flops_per_token: f64,
    /// One entry per routing; their steps take turns.
    pub routings: Vec<RoutingReport>,
    pub matmul: Rates,
    /// The largest resident memory since the model was made, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// The largest sum of tensors.
    pub peak_tensor_bytes: u64,
    pub first_step_s: f64,
    /// From the start of the program to the end of the first step: making the weights included.
    pub start_to_first_step_s: f64,
    /// Of every step in order, warm-up included: real, balanced, real, balanced, ...
    pub losses: Vec<f64>,
    pub profile: Option<Vec<Entry>>,
}

/// One routing's steps.
#[derive(Clone, Debug, Serialize)]
pub struct RoutingReport {
    pub routing: Routing,
    pub steps: usize,
    pub tokens_per_s: Spread,
    /// At the median.
    pub gflops_per_s: f64,
    /// Of `matmul.gflops_per_s`.
    pub matmul_share: f64,
    /// The busiest expert's visits over the mean expert's, the largest of all layers, in the last step.
    pub imbalance: f64,
}

/// Median and range.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// One kind of op in an average timed step.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub op: String,
    pub calls: f64,
    pub seconds: f64,
    /// Of the step's wall-clock time.
    pub share: f64,
    pub gflops_per_s: f64,
    pub gbytes_per_s: f64,
}

/// Measures. `start` is when the program began.
pub fn train(case: &Case, request: &Request, start: Instant) -> Result<Report> {
    let (device, times) = open(request)?;
    let mut bench = Bench::new(case, &device)?;
    memory::restart_peak();
    let first_s = bench.step(Routing::Real)?;
    let start_to_first_step_s = start.elapsed().as_secs_f64();
    for routing in Routing::all(request.skewed).skip(1) {
        bench.step(routing)?;
    }
    let mut timed: Vec<TimedSteps> = Routing::all(request.skewed).map(TimedSteps::new).collect();
    drop(times.as_ref().map(Times::take));
    for _ in 0..request.steps {
        for timed in &mut timed {
            timed.seconds.push(bench.step(timed.routing)?);
            timed.imbalance = bench.imbalance;
        }
    }
    let profile = times.map(|times| profile(&times, &timed));
    let peak_memory_bytes = memory::peak_bytes();
    let peak_tensor_bytes = device.memory_in_use().peak_bytes;
    let losses = std::mem::take(&mut bench.losses);
    drop(bench);
    let matmul = rate::measure(&case.model, case.tokens(), &device)?;
    let rate = matmul.gflops_per_s.median;
    Ok(Report {
        model: case.name.to_owned(),
        device: device.info().description.clone(),
        threads: device.info().threads,
        parameters: case.model.parameters(),
        tokens_per_step: case.tokens(),
        flops_per_token: case.flops_per_token(),
        routings: timed.into_iter().map(|timed| timed.report(case, rate)).collect(),
        matmul,
        peak_memory_bytes,
        peak_tensor_bytes,
        first_step_s: first_s,
        start_to_first_step_s,
        losses,
        profile,
    })
}

fn open(request: &Request) -> Result<(Device, Option<Times>)> {
    let (name, threads) = (request.device.clone(), request.threads as u32);
    let device = lingot_device::open::open(&DeviceSpec { name, threads, ..DeviceSpec::default() })?;
    if !request.profile {
        return Ok((device, None));
    }
    let (timed, times) = Timed::new(device);
    Ok((Device::new(timed), Some(times)))
}

/// A model in training.
pub(crate) struct Training {
    model: Model,
    gradients: Gradients,
    optimizer: Optimizer,
    /// Taken so far.
    pub(crate) steps: u64,
}

impl Training {
    pub(crate) fn new(spec: &ModelSpec, device: &Device) -> Result<Training> {
        let model = Model::new(spec, device, Kind::F32, SEED)?;
        Ok(Training { gradients: model.gradients()?, optimizer: Optimizer::new(&model)?, model, steps: 0 })
    }

    /// The next step on these micro-batches: its loss, and the seconds it took.
    pub(crate) fn step(
        &mut self,
        micros: &[Sequences],
        warmth: Option<Warmth<'_>>,
        recompute: Recompute,
    ) -> Result<(f64, f64)> {
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
        let losses = gradients.losses(&model.spec, totals, sequence)?;
        optimizer.gradient_norm(gradients)?;
        self.steps += 1;
        optimizer.update(model, gradients, &OptimizerSpec::default(), RATE, self.steps)?;
        model.balance(&gradients.tally)?;
        model.device.finish()?;
        Ok((losses.total, start.elapsed().as_secs_f64()))
    }
}

/// A case in training.
struct Bench<'a> {
    case: &'a Case,
    training: Training,
    losses: Vec<f64>,
    imbalance: f64,
}

impl Bench<'_> {
    fn new<'a>(case: &'a Case, device: &Device) -> Result<Bench<'a>> {
        let training = Training::new(&case.model, device)?;
        Ok(Bench { case, training, losses: vec![], imbalance: 0.0 })
    }

    /// The next step, and the seconds it took.
    fn step(&mut self, routing: Routing) -> Result<f64> {
        let sequences = self.case.sequences(self.training.steps);
        let pull = self.case.pull(routing);
        let noise = |_: usize| pull.clone().unwrap_or_default();
        let warmth = pull.is_some().then_some(Warmth { keep: case::KEEP, noise: &noise });
        let (loss, seconds) = self.training.step(&[sequences], warmth, Recompute::Nothing)?;
        self.losses.push(loss);
        self.imbalance = imbalance(&self.training.gradients.tally.loads()?);
        Ok(seconds)
    }
}

/// The busiest expert over the mean one, in the worst layer.
fn imbalance(loads: &[Vec<i32>]) -> f64 {
    let worst = |loads: &Vec<i32>| {
        let most = f64::from(loads.iter().copied().max().unwrap_or(0));
        most * loads.len() as f64 / f64::from(loads.iter().sum::<i32>()).max(1.0)
    };
    loads.iter().map(worst).fold(0.0, f64::max)
}

struct TimedSteps {
    routing: Routing,
    seconds: Vec<f64>,
    imbalance: f64,
}

impl TimedSteps {
    fn new(routing: Routing) -> TimedSteps {
        TimedSteps { routing, seconds: vec![], imbalance: 0.0 }
    }

    fn report(self, case: &Case, rate: f64) -> RoutingReport {
        let speeds = self.seconds.iter().map(|seconds| case.tokens() as f64 / seconds).collect();
        let tokens_per_s = Spread::of(speeds);
        let gflops_per_s = tokens_per_s.median * case.flops_per_token() / 1e9;
        RoutingReport {
            routing: self.routing,
            steps: self.seconds.len(),
            tokens_per_s,
            gflops_per_s,
            matmul_share: gflops_per_s / rate,
            imbalance: self.imbalance,
        }
    }
}

impl Spread {
    /// Of values in any order.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
        Spread { median: (at(low) + at(high)) / 2.0, least: at(0), most: at(values.len().saturating_sub(1)) }
    }
}

/// The longest first; what no op took is the last entry.
fn profile(times: &Times, timed: &[TimedSteps]) -> Vec<Entry> {
    let steps: usize = timed.iter().map(|timed| timed.seconds.len()).sum();
    let wall_s: f64 = timed.iter().flat_map(|timed| &timed.seconds).sum();
    let times = times.take();
    let inside_s: f64 = times.iter().map(|(_, time)| time.seconds).sum();
    let entry = |op: &str, calls: u64, seconds: f64, flops: f64, bytes: f64| Entry {
        op: op.to_owned(),
        calls: calls as f64 / steps as f64,
        seconds: seconds / steps as f64,
        share: seconds / wall_s,
        gflops_per_s: flops / seconds / 1e9,
        gbytes_per_s: bytes / seconds / 1e9,
    };
    let mut entries: Vec<Entry> = times
        .iter()
        .map(|(name, time)| entry(name, time.calls, time.seconds, time.flops, time.bytes))
        .collect();
    entries.push(entry("(between ops)", 0, (wall_s - inside_s).max(0.0), 0.0, 0.0));
    entries
}
