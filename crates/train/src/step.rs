//! The loop. If you read one file, read this one: fetch, differentiate, agree, update, record.

use crate::config::Resolved;
use crate::fleet::{Apart, Fleet, Opener, Roster};
use crate::ledger::Part;
use crate::local::{self, Local};
use crate::record::Record;
use crate::rescue::rescue;
use crate::stop::{StopReason, why_stop};
use crate::worker::Worker;
use crate::{checkpoints, lock, log};
use lingot_data::Dataset;
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_spec::RunSpec;
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// A sentence: why it stopped.
    pub reason: String,
    /// It was asked to stop, and can be resumed.
    pub interrupted: bool,
    pub step: u64,
    pub held_out_loss: Option<f64>,
    /// The first held-out loss since this process began.
    pub first_held_out_loss: Option<f64>,
    pub tokens: u64,
    pub seconds: f64,
    pub money: Option<f64>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    pub parameters: u64,
}

/// Trains until a limit is met, from the newest checkpoint if there is one. Every event is written to `run.jsonl` and
/// then shown to `listen`. When `interrupted` becomes true, the step is finished and saved.
pub fn train(
    resolved: &Resolved,
    dataset: &Dataset,
    device: &Device,
    listen: &mut dyn FnMut(&Event),
    interrupted: &AtomicBool,
) -> Result<Summary> {
    conduct(resolved, dataset, device, None, listen, interrupted)
}

/// As `train`, by the devices that the run's `devices` name, each opened by `open`. The host, which has the weights
/// and the optimizer, is the processor.
pub fn train_fleet(
    resolved: &Resolved,
    dataset: &Dataset,
    open: Opener,
    listen: &mut dyn FnMut(&Event),
    interrupted: &AtomicBool,
) -> Result<Summary> {
    let spec = &resolved.run.device;
    let host = Device::new(Cpu::with_precision(spec.threads as usize, spec.precision));
    conduct(resolved, dataset, &host, Some(open), listen, interrupted)
}

fn conduct(
    resolved: &Resolved,
    dataset: &Dataset,
    device: &Device,
    open: Option<Opener>,
    listen: &mut dyn FnMut(&Event),
    interrupted: &AtomicBool,
) -> Result<Summary> {
    let run = &resolved.run;
    let folder = Path::new(&run.folder);
    let _lock = lock::acquire(folder)?;
    store(folder, &resolved.toml)?;
    checkpoints::clean(&folder.join("checkpoints"))?;
    let history = log::read(folder).unwrap_or_default();
    let mut worker = Worker::open(run, dataset, device, &history)?;
    let mut fleet = open.map(|open| Fleet::open(run, open, &history, worker.step)).transpose()?;
    let devices = fleet.as_ref().map_or_else(Vec::new, Fleet::attendance);
    if fleet.is_some() {
        worker.reprice(devices.iter().map(|device| device.per_hour).sum(), false);
    }
    let ledger = worker.open_ledger(&history, &devices);
    drop(history);
    let mut record = Record::open(resolved, &worker, ledger, listen)?;
    if worker.held_out.is_none() {
        record.evaluation(&mut worker)?;
    }
    let first_held_out_loss = worker.held_out;
    let stopped = match &mut fleet {
        Some(fleet) => go_together(resolved, fleet, &mut worker, &mut record, interrupted)?,
        None => go(resolved, &mut worker, &mut record, interrupted)?,
    };

    if stopped.is_some() && worker.evaluated_step != Some(worker.step) {
        record.evaluation(&mut worker)?;
    }
    if worker.saved_step != Some(worker.step) {
        record.checkpoint(&mut worker, resolved)?;
    }
    let checkpoint = worker.saver.finish()?;
    let reason = stopped.map_or_else(|| "interrupted".into(), |reason| reason.to_string());
    let (seconds, money) = (worker.seconds(), worker.money());
    record.end(&worker, &reason)?;
    Ok(Summary {
        reason,
        interrupted: stopped.is_none(),
        step: worker.step,
        held_out_loss: worker.held_out,
        first_held_out_loss,
        tokens: worker.tokens,
        seconds,
        money,
        checkpoint,
        parameters: run.model.parameters() + run.model.mtp_parameters(),
    })
}

/// Step after step until a limit is met, or nothing when interrupted.
fn go(
    resolved: &Resolved,
    worker: &mut Worker<'_>,
    record: &mut Record<'_>,
    interrupted: &AtomicBool,
) -> Result<Option<StopReason>> {
    let run = &resolved.run;
    if local::is_emulated(run) {
        return go_apart(resolved, worker, record, interrupted);
    }
    while !interrupted.load(Ordering::Relaxed) {
        if let Some(reason) = why_stop(&run.stop, &worker.progress()) {
            return Ok(Some(reason));
        }
        let batch = worker.fetch()?; // fetch: a pure function of (seed, step)
        record.lap(Part::Idle);
        let outcome = match worker.differentiate(&batch) {
            Ok(outcome) => outcome, // differentiate; there is one device, so all agree
            Err(error) => return Err(rescue(error, worker, record, resolved)),
        };
        if let Err(error) = worker.update(&batch, &outcome) {
            return Err(rescue(error, worker, record, resolved)); // update
        }
        record.lap(Part::Compute);
        record.step(worker, &batch, &outcome)?; // record
        do_what_is_due(resolved, worker, record)?;
    }
    Ok(None)
}

/// Step after step of several devices, or meeting after meeting. When all are lost, what was committed is saved before
/// the run gives up.
fn go_together(
    resolved: &Resolved,
    fleet: &mut Fleet,
    worker: &mut Worker<'_>,
    record: &mut Record<'_>,
    interrupted: &AtomicBool,
) -> Result<Option<StopReason>> {
    let run = &resolved.run;
    let mut roster = Roster::new(resolved);
    let mut apart = Apart::open(worker)?;
    loop {
        let stop = why_stop(&run.stop, &worker.progress());
        if stop.is_some() || interrupted.load(Ordering::Relaxed) {
            if let Err(error) = keep(&mut apart, fleet, worker, record) {
                record.checkpoint(worker, resolved)?;
                return Err(error);
            }
            return Ok(stop);
        }
        match roster.changed() {
            Some(Ok(now)) => fleet.revise(&now, worker.step)?,
            Some(Err(error)) => fleet.refuse(&error),
            None => {}
        }
        let before = worker.step;
        let done = match apart.as_mut().filter(|apart| apart.is_due(run, before)) {
            None => step_together(fleet, worker, record),
            Some(apart) => round_apart(fleet, apart, worker, record, interrupted),
        };
        record.changes(worker, fleet)?;
        if let Err(error) = done {
            if let Some(apart) = &mut apart {
                apart.store(worker)?;
            }
            record.checkpoint(worker, resolved)?;
            return Err(error);
        }
        let (evaluates, saves) = passed(run, before, worker.step);
        if evaluates {
            apart.as_mut().map_or(Ok(()), |apart| apart.settle(worker))?;
            record.evaluation(worker)?;
        }
        if saves {
            let kept = keep(&mut apart, fleet, worker, record);
            record.checkpoint(worker, resolved)?;
            kept?;
        }
    }
}

/// What devices that train alone have, for the checkpoint that comes next. An error where all are lost on the way; what
/// was agreed on is there all the same.
fn keep(
    apart: &mut Option<Apart>,
    fleet: &mut Fleet,
    worker: &mut Worker<'_>,
    record: &mut Record<'_>,
) -> Result<()> {
    let kept = apart.as_mut().map_or(Ok(()), |apart| apart.keep(fleet, worker));
    record.changes(worker, fleet)?;
    kept
}

/// One step whose gradients are summed.
fn step_together(fleet: &mut Fleet, worker: &mut Worker<'_>, record: &mut Record<'_>) -> Result<()> {
    let batch = Arc::new(worker.fetch()?);
    record.lap(Part::Idle);
    let gathered = fleet.differentiate(worker, &batch)?;
    let outcome = worker.outcome(batch.totals())?;
    worker.update(&batch, &outcome)?;
    record.changes(worker, fleet)?;
    record.gathered(fleet, gathered)?;
    record.step(worker, &batch, &outcome)
}

/// The steps of each device up to a meeting.
fn round_apart(
    fleet: &mut Fleet,
    apart: &mut Apart,
    worker: &mut Worker<'_>,
    record: &mut Record<'_>,
    interrupted: &AtomicBool,
) -> Result<()> {
    record.lap(Part::Idle);
    let Some((round, busy)) = fleet.round(apart, worker, interrupted)? else { return Ok(()) };
    record.changes(worker, fleet)?;
    record.met(worker, fleet, &round, &busy)?;
    record.step(worker, &round.batch, &round.outcome)
}

/// After a step: the evaluation and the checkpoint that happen every so many of them.
fn do_what_is_due(resolved: &Resolved, worker: &mut Worker<'_>, record: &mut Record<'_>) -> Result<()> {
    let (evaluates, saves) = passed(&resolved.run, worker.step - 1, worker.step);
    if evaluates {
        record.evaluation(worker)?;
    }
    if saves {
        record.checkpoint(worker, resolved)?;
    }
    Ok(())
}

/// Whether the evaluation and the checkpoint that happen every so many steps fell due between two steps.
fn passed(run: &RunSpec, before: u64, now: u64) -> (bool, bool) {
    let has_passed = |every: u64| every > 0 && now / every > before / every;
    (has_passed(run.evaluation.every), has_passed(run.checkpoint.every))
}

/// Meeting after meeting of emulated workers. What is due is done at the next meeting, where all hold the same.
fn go_apart(
    resolved: &Resolved,
    worker: &mut Worker<'_>,
    record: &mut Record<'_>,
    interrupted: &AtomicBool,
) -> Result<Option<StopReason>> {
    let run = &resolved.run;
    let mut local = Local::open(worker)?;
    loop {
        let stop = why_stop(&run.stop, &worker.progress());
        if stop.is_some() || interrupted.load(Ordering::Relaxed) {
            local.keep(worker)?;
            return Ok(stop);
        }
        let before = worker.step;
        let round = local.advance(worker, &|_, _, _| ())?;
        record.lap(Part::Compute);
        record.exchange(worker, &round)?;
        record.step(worker, &round.batch, &round.outcome)?;
        let (evaluates, saves) = passed(run, before, worker.step);
        if evaluates {
            record.evaluation(worker)?;
        }
        if saves {
            local.keep(worker)?;
            record.checkpoint(worker, resolved)?;
        }
    }
}

/// Keeps the resolved run beside what it produces.
fn store(folder: &Path, toml: &str) -> Result<()> {
    let (partial, place) = (folder.join("run.toml.partial"), folder.join("run.toml"));
    std::fs::write(&partial, toml)
        .and_then(|()| std::fs::rename(&partial, &place))
        .map_err(|error| Problem::io("write", &place, &error))
}
