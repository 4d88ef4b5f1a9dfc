//! Times each op within real training steps, with the caches, the routing and the memory of a step.
//!
//! The ops come in the order of `spec::step`'s list, so that each time belongs to known sizes.

use crate::case::Sequences;
use crate::grid::Setup;
use crate::memory;
use crate::spread::Spread;
use crate::training::Training;
use lingot_device::backend::Backend;
use lingot_device::cpu::Cpu;
use lingot_device::intercepted::Intercepted;
use lingot_device::op::Op;
use lingot_device::{Device, Kind};
use lingot_spec::problem::{Problem, Result};
use lingot_spec::step::{self, StepOp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Steps that are not timed.
const WARM_UP: usize = 2;

/// The measured time of one op: all its calls with the same sizes in one step.
#[derive(Clone, Debug)]
pub struct OpSample {
    /// The op with its sizes.
    pub op: StepOp,
    /// Seconds of one call: the mean over calls of each call's median over the steps.
    pub seconds: f64,
    /// Seconds of the fastest call.
    pub least_s: f64,
    /// Seconds of the slowest call.
    pub most_s: f64,
}

/// The measured ops of a setup.
#[derive(Clone, Debug)]
pub struct OpsSample {
    /// The device's own description.
    pub device: String,
    /// CPU threads that it used.
    pub threads: usize,
    /// One entry per kind, form and sizes.
    pub ops: Vec<OpSample>,
    /// Ops of one step.
    pub op_count: usize,
    /// Bytes that the ops of one step move.
    pub bytes: f64,
    /// Seconds of the median step outside its ops.
    pub between_s: f64,
}

/// The measured steps of a setup.
#[derive(Clone, Debug, Serialize)]
pub struct StepSample {
    /// The setup's name.
    pub name: String,
    /// Seconds of one step.
    pub step_s: Spread,
    /// Peak memory of the process; none where the system does not report it.
    pub peak_memory_bytes: Option<u64>,
    /// Peak bytes of tensors.
    pub peak_tensor_bytes: u64,
}

/// Times every op of `steps` steps.
///
/// Errors if the ops are not those that `spec::step` lists.
pub fn measure_ops(setup: &Setup, threads: usize, steps: usize) -> Result<OpsSample> {
    let promised = step::step(&setup.model, &setup.batch());
    let (device, laps) = timed(Device::new(Cpu::new(threads)));
    let mut trainer = Trainer::new(setup, &device)?;
    let (mut each, mut between) = (vec![vec![]; promised.ops.len()], vec![]);
    for at in 0..WARM_UP + steps {
        laps.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
        let step_s = trainer.step()?;
        let laps = laps.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if laps.len() != promised.ops.len()
            || laps.iter().zip(&promised.ops).any(|(lap, op)| lap.op != op.name)
        {
            return Err(Problem::bug(format!(
                "{}: {} ops ran, and the list of `spec::step` has {} or others",
                setup.name,
                laps.len(),
                promised.ops.len()
            )));
        }
        if at >= WARM_UP {
            each.iter_mut().zip(laps.iter()).for_each(|(times, lap)| times.push(lap.seconds));
            between.push((step_s - laps.iter().map(|lap| lap.seconds).sum::<f64>()).max(0.0));
        }
    }
    let info = device.info();
    Ok(OpsSample {
        device: info.description.clone(),
        threads: info.threads,
        ops: by_sizes(&promised.ops, each),
        op_count: promised.ops.len(),
        bytes: promised.cost().bytes,
        between_s: Spread::of(between).median,
    })
}

/// Times `steps` whole steps.
pub fn measure_step(setup: &Setup, threads: usize, steps: usize) -> Result<StepSample> {
    let device = Device::new(Cpu::new(threads));
    let mut trainer = Trainer::new(setup, &device)?;
    memory::restart_peak();
    for _ in 0..WARM_UP {
        trainer.step()?;
    }
    let seconds = (0..steps).map(|_| trainer.step()).collect::<Result<Vec<f64>>>()?;
    Ok(StepSample {
        name: setup.name.clone(),
        step_s: Spread::of(seconds),
        peak_memory_bytes: memory::peak_bytes(),
        peak_tensor_bytes: device.memory_in_use().peak_bytes,
    })
}

/// Bytes of this process besides tensors, after a small setup's steps: those of the program and its kernels.
pub fn base_bytes(sample: &StepSample, setup: &Setup) -> u64 {
    let tensors = step::step(&setup.model, &setup.batch()).memory.pooled_bytes;
    sample.peak_memory_bytes.map_or(0, |bytes| bytes.saturating_sub(tensors))
}

fn by_sizes(ops: &[StepOp], each: Vec<Vec<f64>>) -> Vec<OpSample> {
    let mut groups = BTreeMap::<_, (StepOp, Vec<Spread>)>::new();
    for (op, times) in ops.iter().zip(each) {
        let group = groups.entry((op.name, op.form, op.sizes)).or_insert((*op, vec![]));
        group.1.push(Spread::of(times));
    }
    groups
        .into_values()
        .map(|(op, calls)| OpSample {
            op,
            seconds: calls.iter().map(|call| call.median).sum::<f64>() / calls.len() as f64,
            least_s: calls.iter().map(|call| call.least).fold(f64::INFINITY, f64::min),
            most_s: calls.iter().map(|call| call.most).fold(0.0, f64::max),
        })
        .collect()
}

/// A setup in training, on tokens made by a formula.
struct Trainer<'a> {
    setup: &'a Setup,
    training: Training,
}

impl Trainer<'_> {
    fn new<'a>(setup: &'a Setup, device: &Device) -> Result<Trainer<'a>> {
        Ok(Trainer { setup, training: Training::new(&setup.model, device, Kind::F32)? })
    }

    /// Takes the next step and returns its seconds.
    fn step(&mut self) -> Result<f64> {
        let setup = self.setup;
        let first = self.training.steps * setup.micros as u64;
        let micro =
            |index: u64| Sequences::drawn(setup.model.vocabulary, setup.micro, setup.sequence, first + index);
        let micros: Vec<Sequences> = (0..setup.micros as u64).map(micro).collect();
        Ok(self.training.step(&micros, None, setup.recompute)?.seconds)
    }
}

/// One op that ran.
struct Lap {
    op: &'static str,
    seconds: f64,
}

/// The ops that ran, in order.
type Laps = Arc<Mutex<Vec<Lap>>>;

/// Returns `device` with a wrapper that waits after each op, and the times that it records.
fn timed(device: Device) -> (Device, Laps) {
    let laps = Laps::default();
    let (inner, kept) = (device.clone(), laps.clone());
    let run = move |op: &Op<'_>| {
        let name = op.name();
        let start = Instant::now();
        Backend::run(&inner, op)?;
        inner.finish()?;
        let seconds = start.elapsed().as_secs_f64();
        kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(Lap { op: name, seconds });
        Ok(())
    };
    (Device::new(Intercepted::new(device, run)), laps)
}
