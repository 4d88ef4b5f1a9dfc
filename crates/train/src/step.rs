//! The loop. If you read one file, read this one: fetch, differentiate, agree, update, record.

use crate::checkpoint::newest;
use crate::config::{Resolved, Roster};
use crate::crew::{Emulated, Tamper, Threads};
use crate::engine::{Alone, Apart, Engine, Fleet, InStep, Taken};
use crate::guard::due::due;
use crate::guard::rescue::{self, Doing, Stopped};
use crate::guard::stop::{StopReason, why_stop};
use crate::lock;
use crate::record::Record;
use crate::record::ledger::{Ledger, Part};
use crate::record::log::{self, History};
use crate::training::{Found, Training};
use lingot_data::Dataset;
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_device::entry::Opener;
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::Strategy;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// A sentence: why it stopped.
    pub reason: String,
    /// It was asked to stop, and can be resumed.
    pub interrupted: bool,
    /// Steps taken.
    pub step: u64,
    /// The last held-out loss, in nats per token.
    pub held_out_loss: Option<f64>,
    /// The held-out loss that this process started from.
    pub first_held_out_loss: Option<f64>,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds spent, summed over all processes of the run.
    pub seconds: f64,
    /// Money spent, where the run has a price.
    pub money: Option<f64>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// Parameters of the model.
    pub parameters: u64,
}

/// Trains on one device until a limit is met, from the newest checkpoint if there is one. A run with
/// `sync.virtual_speeds` is trained by emulated workers on that device. Every event is written to `run.jsonl`
/// and then shown to `listen`. When `interrupted` becomes true, the step is finished and saved.
pub fn train(
    resolved: &Resolved,
    dataset: &Dataset,
    device: &Device,
    listen: &mut dyn FnMut(&Event),
    interrupted: &AtomicBool,
) -> Result<Summary> {
    if !resolved.run.sync.virtual_speeds.is_empty() {
        return train_emulated(resolved, dataset, device, Box::new(|_, _, _| ()), listen, interrupted);
    }
    let start = Start::open(resolved, dataset, device, interrupted)?;
    start.train(Alone, listen)
}

/// Trains as `train` does, by the emulated workers of `sync.virtual_speeds` on one device. `tamper` lets a
/// test or an experiment alter the batches that a worker reads in its own steps.
pub fn train_emulated(
    resolved: &Resolved,
    dataset: &Dataset,
    device: &Device,
    tamper: Tamper,
    listen: &mut dyn FnMut(&Event),
    interrupted: &AtomicBool,
) -> Result<Summary> {
    let start = Start::open(resolved, dataset, device, interrupted)?;
    let crew = Emulated::new(&resolved.run, device, tamper);
    let fleet = Fleet::emulated(&resolved.run, crew, &device.info().name, start.step())?;
    start.train_fleet(fleet, listen)
}

/// Trains as `train` does, on the devices listed in the run's `devices`, each opened by `open`. The CPU is
/// the host: it holds the master weights and their optimizer state.
pub fn train_fleet(
    resolved: &Resolved,
    dataset: &Dataset,
    open: Opener,
    listen: &mut dyn FnMut(&Event),
    interrupted: &AtomicBool,
) -> Result<Summary> {
    let spec = &resolved.run.device;
    let host = Device::new(Cpu::with_precision(spec.threads as usize, spec.precision));
    let start = Start::open(resolved, dataset, &host, interrupted)?;
    let fleet = Fleet::open(&resolved.run, Threads::new(&resolved.run, open), start.step())?;
    start.train_fleet(fleet, listen)
}

/// A run that is open, and has no engine yet.
struct Start<'a> {
    resolved: &'a Resolved,
    /// Held while the run writes its folder.
    lock: lock::Lock,
    training: Training<'a>,
    found: Found,
    history: History,
}

/// A run that trains.
struct Run<'a, E: Engine> {
    engine: E,
    training: Training<'a>,
    record: Record<'a>,
    /// Followed where the run's file names devices.
    roster: Roster,
}

impl<'a> Start<'a> {
    fn open(
        resolved: &'a Resolved,
        dataset: &'a Dataset,
        device: &Device,
        interrupted: &'a AtomicBool,
    ) -> Result<Start<'a>> {
        let folder = Path::new(&resolved.run.folder);
        let lock = lock::acquire(folder)?;
        store(folder, &resolved.toml)?;
        newest::clean(&folder.join("checkpoints"))?;
        let (mut training, found) = Training::open(&resolved.run, dataset, device, interrupted)?;
        let history = log::history(folder, found.checkpoint.is_some())?;
        let position = &mut training.position;
        if found.checkpoint.is_some() {
            (position.held_out, position.evaluated_step) =
                log::last_held_out(&history.events, position.step).unzip();
        }
        Ok(Start { resolved, lock, training, found, history })
    }

    /// Steps taken by earlier processes.
    fn step(&self) -> u64 {
        self.training.position.step
    }

    /// Trains by several workers, as the run's strategy says.
    fn train_fleet(mut self, fleet: Fleet, listen: &mut dyn FnMut(&Event)) -> Result<Summary> {
        let in_step = InStep::new(fleet, &self.history.events, self.step());
        if self.resolved.run.sync.strategy == Strategy::EveryStep {
            return self.train(in_step, listen);
        }
        let apart = Apart::open(in_step, &self.training, std::mem::take(&mut self.found.sync))?;
        self.train(apart, listen)
    }

    /// Trains to the end.
    fn train<E: Engine>(self, engine: E, listen: &mut dyn FnMut(&Event)) -> Result<Summary> {
        let Start { resolved, lock: _lock, mut training, found, history } = self;
        let devices = engine.devices(&training);
        training.meter.price(devices.iter().map(|device| device.per_hour).sum());
        let (begin, before_s) = (training.meter.since, training.meter.before_s);
        let ledger = Ledger::open(&devices, begin, &history.events, training.position.step, before_s);
        training.meter.before_s = ledger.before().as_secs_f64();
        let record = Record::open(resolved, &training, &found, history.unreadable, ledger, listen)?;
        Run { engine, training, record, roster: Roster::new(resolved) }.train()
    }
}

impl<E: Engine> Run<'_, E> {
    fn train(mut self) -> Result<Summary> {
        if self.training.position.held_out.is_none() {
            self.attempt(Doing::Evaluation, Self::evaluate)?;
        }
        let first_held_out_loss = self.training.position.held_out;
        let stopped = self.go()?;
        let reason = stopped.map_or_else(|| "interrupted".into(), |reason| reason.to_string());
        let checkpoint = self.training.saver.finish()?;
        let spent = self.training.meter.spent();
        self.record.end(&self.training, &reason, spent)?;
        let Training { run, position, .. } = self.training;
        Ok(Summary {
            reason,
            interrupted: stopped.is_none(),
            step: position.step,
            held_out_loss: position.held_out,
            first_held_out_loss,
            tokens: position.tokens,
            seconds: spent.seconds,
            money: spent.money,
            checkpoint,
            parameters: run.model.parameters() + run.model.mtp_parameters(),
        })
    }

    /// Takes step after step until a limit is met or the run is interrupted. Returns why it stopped, or
    /// `None` if interrupted.
    fn go(&mut self) -> Result<Option<StopReason>> {
        loop {
            let stop = why_stop(&self.training.run.stop, &self.training.progress());
            if stop.is_some() || self.training.is_interrupted() {
                self.close(stop.is_some())?;
                return Ok(stop);
            }
            let before = self.training.position.step;
            let taken = self.attempt(Doing::Step, Self::step)?;
            if let Some(taken) = taken {
                self.record.step(&self.training, &taken)?; // record
            }
            let due = due(self.training.run, before, self.training.position.step);
            if due.evaluation {
                self.attempt(Doing::Evaluation, Self::evaluate)?;
            }
            if due.checkpoint {
                self.attempt(Doing::Checkpoint, Self::save)?;
            }
        }
    }

    /// Takes one step. Which devices came and went is recorded even if it fails.
    fn step(&mut self) -> Result<Option<Taken>> {
        self.follow_roster()?;
        let taken = self.take();
        self.record_devices()?;
        taken
    }

    /// The four verbs before *record*. Returns `None` if no worker took a step, because the run is to stop.
    fn take(&mut self) -> Result<Option<Taken>> {
        let Run { engine, training, record, .. } = self;
        let batch = engine.fetch(training)?; // fetch
        record.lap(Part::Idle); // The time since the last lap was spent fetching: the devices were idle.
        let changes = engine.differentiate(training, batch)?; // differentiate
        let Some(taken) = engine.agree(training, changes)? else { return Ok(None) }; // agree
        engine.update(training, &taken)?; // update
        Ok(Some(taken))
    }

    /// Saves the last step, after scoring it if `scores`, skipping what is done already.
    fn close(&mut self, scores: bool) -> Result<()> {
        let step = Some(self.training.position.step);
        if scores && self.training.position.evaluated_step != step {
            self.attempt(Doing::Evaluation, Self::evaluate)?;
        }
        if self.training.position.saved_step != step {
            self.attempt(Doing::Checkpoint, Self::save)?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<()> {
        self.engine.settle(&mut self.training)?;
        self.record.evaluation(&mut self.training)
    }

    /// Collects what only the workers hold, and saves. A snapshot is possible even if collecting failed, so
    /// it is taken before that error is returned.
    fn save(&mut self) -> Result<()> {
        let collected = self.engine.collect(&mut self.training);
        self.record_devices()?;
        self.snapshot()?;
        collected
    }

    /// Saves what was agreed on last, without contacting any worker.
    fn snapshot(&mut self) -> Result<()> {
        let Run { engine, training, record, .. } = self;
        record.checkpoint(training, |training| engine.snapshot(training))
    }

    /// Adds and drops devices to match the list in the run's file.
    fn follow_roster(&mut self) -> Result<()> {
        let names_devices = !self.training.run.devices.is_empty();
        match self.engine.fleet().filter(|_| names_devices) {
            Some(fleet) => fleet.follow(&mut self.roster, self.training.position.step),
            None => Ok(()),
        }
    }

    fn record_devices(&mut self) -> Result<()> {
        let changes = self.engine.fleet().map_or_else(Vec::new, Fleet::take_changes);
        let devices = self.engine.devices(&self.training);
        self.record.devices(&mut self.training, changes, &devices)
    }

    /// Runs `work`, and applies the failure policy (see `engine`) if it fails.
    fn attempt<T>(&mut self, doing: Doing, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        work(self).map_err(|error| self.give_up(error, doing))
    }

    /// The failure policy: saves what is sound if a device is at fault, and finishes the save under way in
    /// any case.
    fn give_up(&mut self, error: Problem, doing: Doing) -> Problem {
        if !error.kind.is_device() {
            let _ = self.training.saver.finish();
            return error;
        }
        let step = self.training.position.step;
        let before = self.training.position.saved_step;
        let is_saved = before == Some(step) || self.snapshot().is_ok();
        let is_written = self.training.saver.finish().is_ok();
        let stopped = Stopped {
            doing,
            step,
            saved_step: if is_saved && is_written { Some(step) } else { before },
            is_torn: self.training.home.is_torn,
        };
        rescue::explain(error, self.training.run, &stopped)
    }
}

/// Stores the resolved run beside what it produces.
fn store(folder: &Path, toml: &str) -> Result<()> {
    let (partial, place) = (folder.join("run.toml.partial"), folder.join("run.toml"));
    std::fs::write(&partial, toml)
        .and_then(|()| std::fs::rename(&partial, &place))
        .map_err(|error| Problem::io("write", &place, &error))
}
