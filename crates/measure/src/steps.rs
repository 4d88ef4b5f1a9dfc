//! Times whole training steps on tokens made by a formula, beside the rate of this machine's matrix products.
//!
//! Making the tokens is not part of a step. `bench/peer_torch.py` makes the same weights and tokens by the
//! same formulas.

use crate::case::{self, Case, Routing};
use crate::memory;
use crate::rate::{self, Rates};
use crate::spread::Spread;
use crate::training::Training;
use lingot_device::timed::{Timed, Times};
use lingot_device::{Device, Kind};
use lingot_model::Warmth;
use lingot_spec::Result;
use lingot_spec::run::{DeviceSpec, Precision, Recompute};
use serde::Serialize;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Request {
    /// The device, as in `device.name` of a run.
    pub device: String,
    /// What activations and working weights are held in.
    pub precision: Precision,
    /// CPU threads; 0 for all.
    pub threads: usize,
    /// Timed steps of each routing.
    pub steps: usize,
    /// Also time each kind of op.
    pub profile: bool,
    /// Also time steps in which all tokens choose the same experts.
    pub skewed: bool,
}

/// The measured speed of training. The object of `lingot bench train --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The benchmark model: `S`, `M` or `L`.
    pub model: String,
    /// `f32` or `bf16`: what activations and working weights were held in.
    pub precision: Precision,
    /// The device's own description.
    pub device: String,
    /// CPU threads that it used.
    pub threads: usize,
    /// Parameters of the model.
    pub parameters: u64,
    /// Tokens of a step.
    pub tokens_per_step: usize,
    /// FLOPs of a token, forward and backward, by `spec`'s arithmetic.
    pub flops_per_token: f64,
    /// One entry per routing; their steps take turns.
    pub routings: Vec<RoutingReport>,
    /// The rate of plain matrix products.
    pub matmul: Rates,
    /// Peak resident memory since the model was made; none where the system does not report it.
    pub peak_memory_bytes: Option<u64>,
    /// Peak bytes of tensors.
    pub peak_tensor_bytes: u64,
    /// Seconds of the first step.
    pub first_step_s: f64,
    /// Seconds from the start of the program to the end of the first step, making the weights included.
    pub start_to_first_step_s: f64,
    /// Losses of all steps in order, warm-up included: real, balanced, real, balanced, ...
    pub losses: Vec<f64>,
    /// Time by kind of op, the longest first; none unless asked for.
    pub profile: Option<Vec<Entry>>,
}

/// The speed of one routing's steps.
#[derive(Clone, Debug, Serialize)]
pub struct RoutingReport {
    /// The routing.
    pub routing: Routing,
    /// Timed steps.
    pub steps: usize,
    /// Tokens per second by step.
    pub tokens_per_s: Spread,
    /// GFLOP/s of the median step.
    pub gflops_per_s: f64,
    /// Their share of `matmul.gflops_per_s`.
    pub matmul_share: f64,
    /// The busiest expert's visits over the mean expert's, the largest of all layers, in the last step.
    pub imbalance: f64,
}

/// One kind of op in an average timed step.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The op's name.
    pub op: String,
    /// Calls in a step.
    pub calls: f64,
    /// Seconds of all its calls.
    pub seconds: f64,
    /// Their share of the step's wall-clock time.
    pub share: f64,
    /// Its GFLOP/s.
    pub gflops_per_s: f64,
    /// GB/s that it moved.
    pub gbytes_per_s: f64,
}

/// Times the case's steps; `start` is when the program began.
pub fn train(case: &Case, request: &Request, start: Instant) -> Result<Report> {
    let Opened { device, times } = open(request)?;
    let mut bench = Bench::new(case, &device, request.precision.into())?;
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
        precision: request.precision,
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

/// A device, and the times of its ops where they are asked for.
struct Opened {
    device: Device,
    times: Option<Times>,
}

fn open(request: &Request) -> Result<Opened> {
    let (name, threads) = (request.device.clone(), request.threads as u32);
    let device = lingot_device::open::open(&DeviceSpec { name, threads, ..DeviceSpec::default() })?;
    if !request.profile {
        return Ok(Opened { device, times: None });
    }
    let (timed, times) = Timed::new(device);
    Ok(Opened { device: Device::new(timed), times: Some(times) })
}

/// A case in training.
struct Bench<'a> {
    case: &'a Case,
    training: Training,
    losses: Vec<f64>,
    imbalance: f64,
}

impl Bench<'_> {
    fn new<'a>(case: &'a Case, device: &Device, kind: Kind) -> Result<Bench<'a>> {
        let training = Training::new(&case.model, device, kind)?;
        Ok(Bench { case, training, losses: vec![], imbalance: 0.0 })
    }

    /// Takes the next step and returns its seconds.
    fn step(&mut self, routing: Routing) -> Result<f64> {
        let sequences = self.case.sequences(self.training.steps);
        let pull = self.case.pull(routing);
        let noise = |_: usize| pull.clone().unwrap_or_default();
        let warmth = pull.is_some().then_some(Warmth { keep: case::KEEP, noise: &noise });
        let taken = self.training.step(&[sequences], warmth, Recompute::Nothing)?;
        self.losses.push(taken.loss);
        self.imbalance = self.training.imbalance()?;
        Ok(taken.seconds)
    }
}

/// The timed steps of one routing.
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

/// Time by kind of op, the longest first; the time between ops is the last entry.
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
