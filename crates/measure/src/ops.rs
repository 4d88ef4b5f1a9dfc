//! Times each op within real training steps, with the caches, the routing and the memory of a step.
//!
//! The ops come in the order of `spec::step`'s list, so that each time belongs to known sizes.

use crate::case::Sequences;
use crate::clock::{Clock, OpTime};
use crate::grid::Setup;
use crate::memory;
use crate::spread::Spread;
use crate::training::Training;
use lingot_device::Device;
use lingot_device::backend::Backend;
use lingot_device::intercepted::Intercepted;
use lingot_device::op::Op;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::step::{self, StepOp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

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
    /// Calls in a step.
    pub calls: usize,
    /// Seconds of the host until a call returns; 0 on a host device, which computes meanwhile.
    pub enqueue_s: f64,
    /// Whether the host waits for the device in most calls.
    pub waits: bool,
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
    /// Seconds of the median step outside its ops; on an accelerator, beyond what the ops take if the host
    /// enqueues one after the other.
    pub between_s: f64,
    /// Seconds of whole steps. On an accelerator no op of theirs is timed.
    pub step_s: Spread,
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

/// Times every op of `steps` steps. On an accelerator each op runs several times, so the numbers that such a
/// step computes mean nothing; whole steps are timed before.
///
/// Errors if the ops are not those that `spec::step` lists.
pub fn measure_ops(setup: &Setup, device: &Device, steps: usize) -> Result<OpsSample> {
    let promised = step::step(&setup.model, &setup.batch());
    let info = device.info().clone();
    let computes_later = info.is_accelerator();
    let (timed, laps) = timed(device)?;
    let mut trainer = Trainer::new(setup, &timed)?;
    let mut plain = vec![];
    for at in 0..WARM_UP + if computes_later { steps } else { 0 } {
        let step_s = trainer.step()?;
        plain.extend((at >= WARM_UP).then_some(step_s));
    }
    let (mut each, mut between, mut whole) = (vec![vec![]; promised.ops.len()], vec![], vec![]);
    for _ in 0..steps {
        lock(&laps).taken = Some(vec![]);
        let step_s = trainer.step()?;
        let taken = lock(&laps).taken.take().unwrap_or_default();
        check(&setup.name, &taken, &promised.ops)?;
        each.iter_mut().zip(&taken).for_each(|(times, lap)| times.push(lap.time));
        whole.push(step_s);
        between.push((step_s - taken.iter().map(|lap| lap.time.seconds).sum::<f64>()).max(0.0));
    }
    let step_s = Spread::of(if computes_later { plain } else { whole });
    let calls: Vec<OpTime> = each.iter().map(|times| median(times)).collect();
    let between_s = match computes_later {
        true => (step_s.median - in_a_queue(&calls)).max(0.0),
        false => Spread::of(between).median,
    };
    Ok(OpsSample {
        device: info.description,
        threads: info.threads,
        ops: by_sizes(&promised.ops, &each, &calls),
        op_count: promised.ops.len(),
        bytes: promised.cost().bytes,
        between_s,
        step_s,
    })
}

/// Errors if the ops that ran are not those of the list.
fn check(setup: &str, taken: &[Lap], promised: &[StepOp]) -> Result<()> {
    let differs = |(lap, op): (&Lap, &StepOp)| lap.op != op.name;
    if taken.len() == promised.len() && !taken.iter().zip(promised).any(differs) {
        return Ok(());
    }
    Err(Problem::bug(format!(
        "{setup}: {} ops ran, and the list of `spec::step` has {} or others",
        taken.len(),
        promised.len()
    )))
}

/// Seconds of ops that a host enqueues one after the other and a device computes in the same order.
fn in_a_queue(calls: &[OpTime]) -> f64 {
    let (mut host_s, mut device_s) = (0.0_f64, 0.0_f64);
    for call in calls {
        host_s += if call.waits { 0.0 } else { call.enqueue_s };
        device_s = device_s.max(host_s) + call.seconds;
        host_s = if call.waits { device_s } else { host_s };
    }
    device_s
}

/// Times `steps` whole steps.
pub fn measure_step(setup: &Setup, device: &Device, steps: usize) -> Result<StepSample> {
    let mut trainer = Trainer::new(setup, device)?;
    memory::restart_peak();
    device.restart_peak();
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

/// The median of each figure.
fn median(times: &[OpTime]) -> OpTime {
    let of = |figure: fn(&OpTime) -> f64| Spread::of(times.iter().map(figure).collect()).median;
    OpTime {
        seconds: of(|time| time.seconds),
        enqueue_s: of(|time| time.enqueue_s),
        waits: 2 * times.iter().filter(|time| time.waits).count() > times.len(),
    }
}

fn by_sizes(ops: &[StepOp], each: &[Vec<OpTime>], calls: &[OpTime]) -> Vec<OpSample> {
    let mut groups = BTreeMap::<_, (StepOp, Vec<usize>)>::new();
    for (at, op) in ops.iter().enumerate() {
        groups.entry((op.name, op.form, op.sizes)).or_insert((*op, vec![])).1.push(at);
    }
    groups
        .into_values()
        .map(|(op, at)| {
            let mean = |figure: fn(&OpTime) -> f64| {
                at.iter().map(|&at| figure(&calls[at])).sum::<f64>() / at.len() as f64
            };
            let all = at.iter().flat_map(|&at| each[at].iter().map(|time| time.seconds));
            let all = Spread::of(all.collect());
            OpSample {
                op,
                seconds: mean(|call| call.seconds),
                least_s: all.least,
                most_s: all.most,
                calls: at.len(),
                enqueue_s: mean(|call| call.enqueue_s),
                waits: 2 * at.iter().filter(|&&at| calls[at].waits).count() > at.len(),
            }
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
        Ok(Trainer { setup, training: Training::new(&setup.model, device, setup.precision.into())? })
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
    time: OpTime,
}

/// The ops that ran, in order; none while ops are not timed.
#[derive(Default)]
struct Laps {
    taken: Option<Vec<Lap>>,
}

fn lock(laps: &Mutex<Laps>) -> MutexGuard<'_, Laps> {
    laps.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Returns `device` with a wrapper that times each op while it is told to, and the times that it records.
fn timed(device: &Device) -> Result<(Device, Arc<Mutex<Laps>>)> {
    let laps = Arc::<Mutex<Laps>>::default();
    let clock = Mutex::new(Clock::new(device)?);
    let (inner, kept) = (device.clone(), laps.clone());
    let run = move |op: &Op<'_>| {
        let mut laps = lock(&kept);
        let Some(taken) = &mut laps.taken else { return Backend::run(&inner, op) };
        let time = clock.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).time(op)?;
        taken.push(Lap { op: op.name(), time });
        Ok(())
    };
    Ok((Device::new(Intercepted::new(device.clone(), run)), laps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::clock::tests::Later;

    #[test]
    fn a_device_that_keeps_up_with_its_host_waits_for_it_and_one_that_does_not_is_waited_for() {
        let call = |seconds, enqueue_s, waits| OpTime { seconds, enqueue_s, waits };
        assert!((in_a_queue(&[call(1.0, 0.1, false), call(2.0, 0.1, false)]) - 3.1).abs() < 1e-12);
        assert!((in_a_queue(&[call(0.1, 1.0, false), call(0.1, 1.0, false)]) - 2.1).abs() < 1e-12);
        assert!((in_a_queue(&[call(1.0, 9.0, true), call(1.0, 0.5, false)]) - 2.5).abs() < 1e-12);
        assert!((in_a_queue(&[call(1.0, 0.0, false), call(2.0, 0.0, false)]) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn ops_of_a_device_that_computes_later_are_timed_without_the_steps_that_time_them() {
        let mut case = Case::named("T").unwrap();
        (case.model.layers, case.sequences, case.sequence) = (1, 1, 8);
        let setup = Setup::of(&case, lingot_spec::run::Precision::F32);
        let sample = measure_ops(&setup, &Device::new(Later::new(false)), 1).unwrap();
        let calls: usize = sample.ops.iter().map(|op| op.calls).sum();
        assert_eq!(calls, sample.op_count);
        let ops_s: f64 = sample.ops.iter().map(|op| op.calls as f64 * op.seconds).sum();
        assert!((sample.step_s.median / ops_s - 1.0).abs() < 0.5, "{} {ops_s}", sample.step_s.median);
    }
}
