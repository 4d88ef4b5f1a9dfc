//! Times whole training steps on tokens made by a formula, beside the rate of this machine's matrix products.
//!
//! Making the tokens is not part of a step. `bench/peer_torch.py` makes the same weights and tokens by the
//! same formulas.

use crate::case::{self, Case, Routing};
use crate::memory;
use crate::rate::{self, Rates};
use crate::spread::Spread;
use crate::training::{Made, Training};
use lingot_device::timed::{Timed, Times};
use lingot_device::{Device, Kind, Tensor};
use lingot_model::{Noise, Warmth};
use lingot_spec::Result;
use lingot_spec::run::{DeviceSpec, Precision};
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
    /// Steps of each routing before the timed ones, at least 1.
    pub warm: usize,
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
    /// The name of the case.
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
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Micro-batches of a step.
    pub micros: usize,
    /// FLOPs of a token, forward and backward, by `spec`'s arithmetic.
    pub flops_per_token: f64,
    /// One entry per routing; their steps take turns.
    pub routings: Vec<RoutingReport>,
    /// The rate of plain matrix products.
    pub matmul: Rates,
    /// What the shares of a peak are of; none where the device's peak is unknown.
    pub peak: Option<Peak>,
    /// Peak resident memory since the model was made; none where the system does not report it.
    pub peak_memory_bytes: Option<u64>,
    /// Peak bytes of tensors.
    pub peak_tensor_bytes: u64,
    /// Seconds of the first step.
    pub first_step_s: f64,
    /// Seconds from the start of the program to the end of the first step, making the weights included.
    pub start_to_first_step_s: f64,
    /// The parts of that time.
    pub start_up: StartUp,
    /// Losses of all steps in order, warm-up included: real, balanced, real, balanced, ...
    pub losses: Vec<f64>,
    /// Time by kind of op, the longest first; none unless asked for.
    pub profile: Option<Vec<Entry>>,
}

/// Seconds from the start of the program to the end of the first step, by part.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StartUp {
    /// Until the device was open.
    pub device_s: f64,
    /// Drawing the weights and moving them to the device.
    pub weights_s: f64,
    /// Gradients and the optimizer's state.
    pub state_s: f64,
    /// The first step.
    pub step_s: f64,
}

/// The rate that a chip's data sheet promises.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peak {
    /// The chip's name in the catalogue.
    pub chip: String,
    /// Dense FLOP/s in the precision that was measured.
    pub flops_per_s: f64,
}

/// The speed of one routing's steps.
#[derive(Clone, Debug, Serialize)]
pub struct RoutingReport {
    /// The routing.
    pub routing: Routing,
    /// Timed steps.
    pub steps: usize,
    /// Seconds of a step.
    pub step_s: Spread,
    /// Tokens per second by step.
    pub tokens_per_s: Spread,
    /// GFLOP/s of the median step.
    pub gflops_per_s: f64,
    /// Their share of `matmul.gflops_per_s`.
    pub matmul_share: f64,
    /// Their share of the chip's peak (MFU); none where that is unknown.
    pub peak_share: Option<f64>,
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

impl Report {
    /// States each routing's share of a chip's peak.
    pub fn compare_with(&mut self, peak: Peak) {
        for routing in &mut self.routings {
            routing.peak_share = Some(1e9 * routing.gflops_per_s / peak.flops_per_s);
        }
        self.peak = Some(peak);
    }
}

/// Times the case's steps; `start` is when the program began.
pub fn train(case: &Case, request: &Request, start: Instant) -> Result<Report> {
    let Opened { device, times } = open(request)?;
    let device_s = start.elapsed().as_secs_f64();
    let kind = request.precision.into();
    let (mut bench, made) = Bench::new(case, &device, kind)?;
    memory::restart_peak();
    let first_step_s = bench.step(Routing::Real)?;
    let start_to_first_step_s = start.elapsed().as_secs_f64();
    let start_up =
        StartUp { device_s, weights_s: made.weights_s, state_s: made.state_s, step_s: first_step_s };
    let timed = bench.timed(request, times.as_ref())?;
    let profile = times.map(|times| profile(&times, &timed));
    let peak_memory_bytes = memory::peak_bytes();
    let peak_tensor_bytes = device.memory_in_use().peak_bytes;
    let losses = std::mem::take(&mut bench.losses);
    drop(bench);
    let matmul = rate::measure(&case.model, case.micro_tokens(), &device, kind)?;
    let rate = matmul.gflops_per_s.median;
    Ok(Report {
        model: case.name.clone(),
        precision: request.precision,
        device: device.info().description.clone(),
        threads: device.info().threads,
        parameters: case.model.parameters() + case.model.mtp_parameters(),
        tokens_per_step: case.tokens(),
        sequence: case.sequence,
        micros: case.micros,
        flops_per_token: case.flops_per_token(),
        routings: timed.into_iter().map(|timed| timed.report(case, rate)).collect(),
        matmul,
        peak: None,
        peak_memory_bytes,
        peak_tensor_bytes,
        first_step_s,
        start_to_first_step_s,
        start_up,
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
    let device = lingot_device::open::open(&DeviceSpec {
        name,
        threads,
        precision: request.precision,
        ..DeviceSpec::default()
    })?;
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
    device: Device,
    /// What forces the choice, of the routings that were asked for.
    pulls: Vec<(Routing, Tensor)>,
    losses: Vec<f64>,
    imbalance: f64,
}

impl Bench<'_> {
    fn new<'a>(case: &'a Case, device: &Device, kind: Kind) -> Result<(Bench<'a>, Made)> {
        let (training, made) = Training::timed(&case.model, device, kind)?;
        let device = device.clone();
        Ok((Bench { case, training, device, pulls: vec![], losses: vec![], imbalance: 0.0 }, made))
    }

    /// Takes steps of each routing in turns, after those that warm up.
    fn timed(&mut self, request: &Request, times: Option<&Times>) -> Result<Vec<TimedSteps>> {
        let routings = || Routing::all(request.skewed);
        for routing in routings().skip(1) {
            self.step(routing)?;
        }
        for _ in 1..request.warm {
            routings().try_for_each(|routing| self.step(routing).map(drop))?;
        }
        let mut timed: Vec<TimedSteps> = routings().map(TimedSteps::new).collect();
        drop(times.map(Times::take));
        for _ in 0..request.steps {
            for timed in &mut timed {
                timed.seconds.push(self.step(timed.routing)?);
                timed.imbalance = self.imbalance;
            }
        }
        Ok(timed)
    }

    /// What forces the choice of a routing, moved to the device once; none for real routing.
    fn pull_te(&mut self, routing: Routing) -> Result<Option<Tensor>> {
        if let Some((_, pull_te)) = self.pulls.iter().find(|(known, _)| *known == routing) {
            return Ok(Some(pull_te.clone()));
        }
        let Some(pull) = self.case.pull(routing) else { return Ok(None) };
        let shape = [self.case.micro_tokens(), self.case.model.experts as usize];
        let pull_te = self.device.floats(&pull, &shape, Kind::F32)?;
        self.pulls.push((routing, pull_te.clone()));
        Ok(Some(pull_te))
    }

    /// Takes the next step and returns its seconds.
    fn step(&mut self, routing: Routing) -> Result<f64> {
        let micros = self.case.micros(self.training.steps);
        let pull_te = self.pull_te(routing)?;
        let warmth =
            pull_te.as_ref().map(|pull_te| Warmth { keep: case::KEEP, noise: Noise::Given(pull_te) });
        let taken = self.training.step(&micros, warmth, self.case.recompute)?;
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
        let steps = self.seconds.len();
        let speeds = self.seconds.iter().map(|seconds| case.tokens() as f64 / seconds).collect();
        let tokens_per_s = Spread::of(speeds);
        let gflops_per_s = tokens_per_s.median * case.flops_per_token() / 1e9;
        RoutingReport {
            routing: self.routing,
            steps,
            step_s: Spread::of(self.seconds),
            tokens_per_s,
            gflops_per_s,
            matmul_share: gflops_per_s / rate,
            peak_share: None,
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
