//! How a run begins or goes on: its folder is locked and cleaned, and the newest sound checkpoint restored.

use crate::checkpoint::newest;
use crate::config::{Resolved, Roster};
use crate::engine::{Apart, Engine, Fleet, InStep};
use crate::lock;
use crate::record::Record;
use crate::record::ledger::Ledger;
use crate::record::log::{self, History};
use crate::step::{Back, Ended, Run, Summary};
use crate::training::{Found, Training};
use lingot_data::Dataset;
use lingot_device::Device;
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::Strategy;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A run that is open, and has no engine yet.
pub(crate) struct Start<'a> {
    resolved: &'a Resolved,
    /// Held while the run writes its folder.
    lock: lock::Lock,
    training: Training<'a>,
    found: Found,
    history: History,
}

/// Trains until the run is done, each time from the checkpoint that it rolled back to.
pub(crate) fn again(mut train: impl FnMut(Option<Back>) -> Result<Ended>) -> Result<Summary> {
    let mut back = None;
    loop {
        match train(back.take())? {
            Ended::Done(summary) => return Ok(summary),
            Ended::RolledBack(why) => back = Some(why),
        }
    }
}

impl<'a> Start<'a> {
    pub(crate) fn open(
        resolved: &'a Resolved,
        dataset: &'a Dataset,
        device: &Device,
        interrupted: &'a AtomicBool,
        back: Option<Back>,
    ) -> Result<Start<'a>> {
        let folder = Path::new(&resolved.run.folder);
        let lock = lock::acquire(folder)?;
        store(folder, &resolved.toml)?;
        newest::clean(&folder.join("checkpoints"))?;
        let before = back.as_ref().and_then(|back| back.before);
        let (mut training, mut found) = Training::open(&resolved.run, dataset, device, interrupted, before)?;
        let history = log::history(folder, found.checkpoint.is_some())?;
        found.rolled_back = back.map(|back| back.reason);
        if found.checkpoint.is_none() {
            found.gone = set_aside_log(folder, &history)?;
        }
        let position = &mut training.position;
        if found.checkpoint.is_some() {
            (position.held_out, position.evaluated_step) =
                log::last_held_out(&history.events, position.step).unzip();
        }
        Ok(Start { resolved, lock, training, found, history })
    }

    /// Steps taken by earlier processes.
    pub(crate) fn step(&self) -> u64 {
        self.training.position.step
    }

    /// Trains by several workers, as the run's strategy says.
    pub(crate) fn train_fleet(mut self, fleet: Fleet, listen: &mut dyn FnMut(&Event)) -> Result<Ended> {
        let in_step = InStep::new(fleet, &self.history.events, self.step());
        if self.resolved.run.sync.strategy == Strategy::EveryStep {
            return self.train(in_step, listen);
        }
        let apart = Apart::open(in_step, &self.training, std::mem::take(&mut self.found.sync))?;
        self.train(apart, listen)
    }

    /// Trains to the end.
    pub(crate) fn train<E: Engine>(self, engine: E, listen: &mut dyn FnMut(&Event)) -> Result<Ended> {
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

/// Moves the log of a run aside whose checkpoints are gone. Returns what is to be said of that; nothing where
/// the log tells of no checkpoint.
fn set_aside_log(folder: &Path, history: &History) -> Result<Option<String>> {
    let saved = history.events.iter().rev().find_map(|event| match event {
        Event::Checkpoint(saved) => Some(saved.step),
        _ => None,
    });
    let Some(step) = saved.filter(|step| *step > 0) else { return Ok(None) };
    let aside = log::set_aside(folder)?;
    Ok(Some(format!(
        "begins anew: the log tells of a checkpoint of step {step}, but {} holds none; the log before is \
         kept as {}",
        folder.join("checkpoints").display(),
        aside.display()
    )))
}

/// Stores the resolved run beside what it produces.
fn store(folder: &Path, toml: &str) -> Result<()> {
    let (partial, place) = (folder.join("run.toml.partial"), folder.join("run.toml"));
    std::fs::write(&partial, toml)
        .and_then(|()| std::fs::rename(&partial, &place))
        .map_err(|error| Problem::io("write", &place, &error))
}
