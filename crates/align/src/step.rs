//! Level *step*: whole training steps on the candidate against the same steps by the definitions in f64, with
//! several workers and micro-batches, a clip that acts, the optimizer, the routers' statistics and a
//! checkpoint between two steps.
//!
//! Nothing is fed anew but the routers' logits (see `fed`), so errors add up; the quantities are aggregates,
//! in which rounding does not. A fault is named by the first quantity that differs.

use crate::Progress;
use crate::faults::{Planted, Wiring, faulty};
use crate::fed::{self, Apart, Logits};
use crate::task::{self, Task};
use crate::trainer::{Taken, Trainer};
use lingot_device::reference::Reference;
use lingot_device::{Bf16, Device, Kind, Precision};
use lingot_spec::Result;
use lingot_spec::run::OptimizerSpec;
use lingot_spec::tensors::TensorSpec;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

/// Steps that are taken.
pub const STEPS: u64 = 3;

/// The step after which the state is saved, and training goes on from what was saved.
const SAVED_AFTER: u64 = 2;

/// The settings of the optimizer: the clip acts in every step, and epsilon is of the size of the clipped
/// gradients, so that the factor of the clip reaches the weights.
const RULE: OptimizerSpec =
    OptimizerSpec { rate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-3, decay: 0.1, clip: 0.1 };

/// How far one quantity was off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The quantity: `loss`, `gradient norm`, `gradient`, `first moment`, `weights` and so on.
    pub quantity: String,
    /// The tensor where it was most off, for quantities that have tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// The step, from 1.
    pub step: u64,
    /// The relative difference.
    pub error: f64,
    /// The largest that passes.
    pub bound: f64,
    /// The value on the reference; a norm for tensors.
    pub reference: f64,
    /// The value on the candidate.
    pub candidate: f64,
}

impl Difference {
    /// The difference in words.
    pub(crate) fn words(&self, model: &str) -> String {
        let Difference { quantity, step, error, bound, reference, candidate, .. } = self;
        let tensor = self.tensor.as_ref().map_or_else(String::new, |tensor| format!(" of {tensor}"));
        format!(
            "model {model}, step {step}: {quantity}{tensor} is off by {error:.1e}, bound {bound:.0e} \
             ({candidate:e} here, {reference:e} by definition)"
        )
    }
}

/// The comparison of one model's steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The model's name.
    pub model: String,
    /// Steps compared.
    pub steps: u64,
    /// By how much the clip reduced the gradient, at the least: at most 1.
    pub clipped_to: f64,
    /// The worst difference of each quantity.
    pub worst: Vec<Difference>,
    /// The first difference beyond its bound.
    pub fault: Option<Difference>,
    /// The verdict.
    pub passed: bool,
}

/// All that a step leaves, in f64 on the host.
struct Observed {
    taken: Taken,
    gradient: Vec<f64>,
    state: State,
    /// The state as it was saved after this step.
    saved: Option<State>,
}

/// What a checkpoint holds.
struct State {
    weights: Vec<f64>,
    moments: [Vec<f64>; 2],
    biases: Vec<f64>,
}

/// The steps of one task by the definitions.
struct Wanted {
    task: Task,
    specs: Vec<TensorSpec>,
    initial: Vec<f64>,
    logits: Logits,
    steps: Vec<Observed>,
}

/// The steps of every task by the definitions, to compare devices with.
pub struct Steps {
    precision: Precision,
    seed: u64,
    wanted: Vec<Wanted>,
}

impl Steps {
    /// Takes the steps by the definitions: in f64, or for bf16 on bf16 tensors, of which each op's results
    /// are computed in f64 and rounded once.
    pub fn new(precision: Precision, seed: u64, progress: Progress<'_>) -> Result<Steps> {
        let tasks = task::tasks();
        let all = tasks.len() as u64;
        let mut wanted = vec![];
        for (done, task) in tasks.into_iter().enumerate() {
            progress("step by definition", done as u64, all);
            wanted.push(Wanted::of(smaller(task), precision, seed)?);
        }
        Ok(Steps { precision, seed, wanted })
    }

    /// Compares the candidate's steps with these. `planted` alters the candidate.
    pub fn check(
        &self,
        candidate: &Device,
        planted: Option<Planted>,
        progress: Progress<'_>,
    ) -> Result<Vec<StepReport>> {
        let candidate = faulty(candidate, planted);
        let all = self.wanted.len() as u64;
        let mut reports = vec![];
        for (done, wanted) in self.wanted.iter().enumerate() {
            progress("step", done as u64, all);
            reports.push(self.one(wanted, &candidate, planted)?);
        }
        Ok(reports)
    }

    fn one(&self, wanted: &Wanted, candidate: &Device, planted: Option<Planted>) -> Result<StepReport> {
        let (device, apart) = fed::feed(candidate, &wanted.logits);
        let (seeds, kind) = ([self.seed; 2], self.precision.into());
        let new = || Trainer::new(&wanted.task, &device, kind, seeds, Wiring(planted));
        let mut trainer = new()?.with_rule(RULE);
        let mut found = Comparison { wanted, bounds: bounds(self.precision), all: vec![] };
        for (step, observed) in wanted.steps.iter().enumerate() {
            let taken = trainer.step()?;
            found.step(step as u64 + 1, &trainer, &taken, &apart)?;
            if observed.saved.is_some() {
                let mut again = new()?.with_rule(RULE);
                again.take_over(&trainer)?;
                trainer = again;
                found.saved(step as u64 + 1, &trainer)?;
            }
        }
        Ok(found.report())
    }
}

/// The task with micro-batches that the definitions can compute in seconds.
fn smaller(task: Task) -> Task {
    Task { micro: task.micro.min(2), sequence: task.sequence.min(32), ..task }
}

impl Wanted {
    fn of(task: Task, precision: Precision, seed: u64) -> Result<Wanted> {
        let (device, logits) = fed::record(&Device::new(Reference::new()));
        let kind = if precision == Precision::F32 { Kind::F64 } else { precision.into() };
        let mut trainer = Trainer::new(&task, &device, kind, [seed; 2], Wiring::default())?.with_rule(RULE);
        let specs = trainer.model.parameters.specs.clone();
        let initial = trainer.model.parameters.flat.to_doubles()?;
        let mut steps = vec![];
        for step in 1..=STEPS {
            let taken = trainer.step()?;
            let (gradient, state) = (trainer.gradient().flat.to_doubles()?, State::of(&trainer)?);
            let saved = if step == SAVED_AFTER { Some(State::of(&trainer)?) } else { None };
            steps.push(Observed { taken, gradient, state, saved });
        }
        drop(trainer);
        Ok(Wanted { task, specs, initial, logits, steps })
    }
}

impl State {
    fn of(trainer: &Trainer<'_>) -> Result<State> {
        let [first, second] = trainer.moments();
        let biases: lingot_device::Result<Vec<Vec<f64>>> =
            trainer.model.biases.iter().map(lingot_device::Tensor::to_doubles).collect();
        Ok(State {
            weights: trainer.model.parameters.flat.to_doubles()?,
            moments: [first.to_doubles()?, second.to_doubles()?],
            biases: biases?.concat(),
        })
    }
}

/// The largest relative differences that pass.
#[derive(Clone, Copy)]
struct Bounds {
    /// Bound on losses, which are means over a whole step.
    losses: f64,
    /// Bound on the gradient norm.
    norm: f64,
    /// Bound on gradients and moments, by the norm of a tensor's difference.
    tensors: f64,
    /// Bound on weights, relative to their change.
    weights: f64,
    /// Bound on the routers' logits.
    logits: f64,
}

/// What rounding does in three steps, with room: on the CPU in f32, sums differ by 1.3e-7 at most, gradients
/// and moments by 2.5e-6, weights by 1.7e-4 of their change (scales of norms, whose last bit is that large),
/// logits by 1.3e-6, over twenty seeds.
///
/// In bf16 both sides round at the same places, but once they differ by one number of bf16 their roundings
/// are independent. One is 2^-9 of its value in the root of the mean square, and a value comes through about
/// [`ROUNDINGS`] in a step. So a tensor is off by `2^-9 sqrt(50)`, 1.4 %, and by more where terms cancel; the
/// loss is the mean of at least a hundred such values, the norm is that of some thirty directions. Tensors
/// are held to eight times that, means to four times: on the CPU, over twenty seeds, losses differ by 2.3e-4
/// at most, norms by 3.5e-3, gradients by 4.4e-2, weights by 1.7e-2 of their change, logits by 2.1e-2.
fn bounds(precision: Precision) -> Bounds {
    let rounded = ROUNDINGS.sqrt() / 512.0;
    match precision {
        Precision::F32 => Bounds { losses: 2e-6, norm: 2e-6, tensors: 1e-4, weights: 2e-3, logits: 1e-4 },
        Precision::Bf16 => Bounds {
            losses: 4.0 * rounded / 100.0_f64.sqrt(),
            norm: 4.0 * rounded / 30.0_f64.sqrt(),
            tensors: 8.0 * rounded,
            weights: 8.0 * rounded,
            logits: 8.0 * rounded,
        },
    }
}

/// Roundings to bf16 that lie between a step's inputs and an element of a gradient.
const ROUNDINGS: f64 = 50.0;

/// The differences found so far.
struct Comparison<'a> {
    wanted: &'a Wanted,
    bounds: Bounds,
    all: Vec<Difference>,
}

impl Comparison<'_> {
    /// Compares what one step left, in the order in which it came about.
    fn step(&mut self, step: u64, trainer: &Trainer<'_>, taken: &Taken, apart: &Mutex<Apart>) -> Result<()> {
        let Observed { taken: wanted, gradient, state, .. } = &self.wanted.steps[step as usize - 1];
        let Bounds { losses, norm, logits, .. } = self.bounds;
        for (quantity, found, wanted) in [
            ("loss", taken.losses.main, wanted.losses.main),
            ("balance loss", taken.losses.balance, wanted.losses.balance),
            ("z-loss", taken.losses.z, wanted.losses.z),
        ] {
            self.number(quantity, step, [wanted, found], losses);
        }
        self.note("router logits", None, step, fed::take(apart), logits, [0.0; 2]);
        self.tensors("gradient", step, [gradient, &trainer.gradient().flat.to_doubles()?], None);
        self.number("gradient norm", step, [wanted.norm, taken.norm], norm);
        self.loads(step, &wanted.loads, &taken.loads);
        self.state(step, "", state, &State::of(trainer)?);
        self.working_copy("", step, trainer)
    }

    /// Compares what was read back from a checkpoint with what went into it.
    fn saved(&mut self, step: u64, trainer: &Trainer<'_>) -> Result<()> {
        if let Some(saved) = &self.wanted.steps[step as usize - 1].saved {
            self.state(step, "saved ", saved, &State::of(trainer)?);
        }
        self.working_copy("saved ", step, trainer)
    }

    /// Holds the working copy of a bf16 model against its master weights, each rounded once: equal bits.
    fn working_copy(&mut self, prefix: &str, step: u64, trainer: &Trainer<'_>) -> Result<()> {
        let Some(working) = &trainer.model.working else { return Ok(()) };
        let masters = &trainer.model.parameters;
        for ((spec, master), copy) in masters.specs.iter().zip(&masters.tensors).zip(&working.tensors) {
            let (master, copy) = (master.to_floats()?, copy.to_floats()?);
            let rounded = master.iter().map(|&x| Bf16::of(x).wide());
            let differing = rounded.zip(&copy).find(|(wanted, found)| wanted != *found);
            let error = if differing.is_some() { f64::INFINITY } else { 0.0 };
            let values = differing.map_or([0.0; 2], |(wanted, found)| [f64::from(wanted), f64::from(*found)]);
            self.note(&format!("{prefix}working copy"), Some(&spec.name), step, error, 0.0, values);
        }
        Ok(())
    }

    fn state(&mut self, step: u64, prefix: &str, wanted: &State, found: &State) {
        let name = |quantity: &str| format!("{prefix}{quantity}");
        let [first, second] = [0, 1].map(|index| [&wanted.moments[index], &found.moments[index]]);
        self.tensors(&name("first moment"), step, first.map(Vec::as_slice), None);
        self.tensors(&name("second moment"), step, second.map(Vec::as_slice), None);
        let initial = &self.wanted.initial;
        self.tensors(&name("weights"), step, [&wanted.weights, &found.weights], Some(initial));
        if !wanted.biases.is_empty() {
            let [size, distance] = norms(&wanted.biases, &found.biases, None);
            let values = [size, norms(&found.biases, &found.biases, None)[0]];
            self.note(&name("selection bias"), None, step, distance / size, 1e-4, values);
        }
    }

    fn number(&mut self, quantity: &str, step: u64, [wanted, found]: [f64; 2], bound: f64) {
        let error = if wanted == found { 0.0 } else { (found - wanted).abs() / wanted.abs() };
        self.note(quantity, None, step, error, bound, [wanted, found]);
    }

    fn loads(&mut self, step: u64, wanted: &[Vec<i32>], found: &[Vec<i32>]) {
        let pairs = wanted.iter().flatten().zip(found.iter().flatten());
        let differing = pairs.clone().find(|(wanted, found)| wanted != found);
        let error = if differing.is_some() { f64::INFINITY } else { 0.0 };
        let values = differing.map_or([0.0; 2], |(wanted, found)| [f64::from(*wanted), f64::from(*found)]);
        self.note("loads", None, step, error, 0.0, values);
    }

    /// Compares a bundle tensor by tensor; relative to its change `since` where that is given.
    fn tensors(&mut self, quantity: &str, step: u64, [wanted, found]: [&[f64]; 2], since: Option<&[f64]>) {
        let mut from = 0;
        for spec in &self.wanted.specs {
            let count: usize = spec.shape.iter().product();
            let part = from..from + count;
            from += count;
            let before = since.map(|since| &since[part.clone()]);
            let [size, distance] = norms(&wanted[part.clone()], &found[part.clone()], before);
            let error = if distance == 0.0 { 0.0 } else { distance / size };
            let values = [&wanted[part.clone()], &found[part]].map(|x| norms(x, x, None)[0]);
            let bound = if since.is_some() { self.bounds.weights } else { self.bounds.tensors };
            self.note(quantity, Some(&spec.name), step, error, bound, values);
        }
    }

    fn note(
        &mut self,
        quantity: &str,
        tensor: Option<&str>,
        step: u64,
        error: f64,
        bound: f64,
        [reference, candidate]: [f64; 2],
    ) {
        self.all.push(Difference {
            quantity: quantity.into(),
            tensor: tensor.map(str::to_owned),
            step,
            // JSON has no infinity.
            error: if error.is_nan() { f64::MAX } else { error.min(f64::MAX) },
            bound,
            reference,
            candidate,
        });
    }

    fn report(self) -> StepReport {
        let fault = self.all.iter().find(|difference| difference.error > difference.bound).cloned();
        let mut worst: Vec<Difference> = vec![];
        for difference in self.all {
            match worst.iter_mut().find(|known| known.quantity == difference.quantity) {
                Some(known) if difference.error > known.error => *known = difference,
                Some(_) => {}
                None => worst.push(difference),
            }
        }
        let clipped = self.wanted.steps.iter().map(|step| RULE.clip / step.taken.norm).fold(0.0, f64::max);
        StepReport {
            model: self.wanted.task.name.into(),
            steps: self.wanted.steps.len() as u64,
            clipped_to: clipped.min(1.0),
            worst,
            passed: fault.is_none(),
            fault,
        }
    }
}

/// The norm of `wanted`, or of its change since `before`, and of its difference from `found`.
fn norms(wanted: &[f64], found: &[f64], before: Option<&[f64]>) -> [f64; 2] {
    let (mut size, mut distance) = (0.0, 0.0);
    for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
        let changed = wanted - before.map_or(0.0, |before| before[index]);
        size += changed * changed;
        distance += (found - wanted) * (found - wanted);
    }
    [size.sqrt(), distance.sqrt()]
}
