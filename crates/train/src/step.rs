//! The loop. If you read one file, read this one: fetch, differentiate, agree, update, record.

use crate::checkpoint::newest;
use crate::config::{Resolved, Roster};
use crate::crew::{Emulated, Tamper, Threads};
use crate::engine::{Alone, Engine, Fleet, Taken};
use crate::guard::due::due;
use crate::guard::rescue::{self, Doing, Stopped};
use crate::guard::stop::{StopReason, why_stop};
use crate::record::Record;
use crate::record::ledger::Part;
use crate::start::{Start, again};
use crate::training::Training;
use lingot_data::Dataset;
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_device::entry::Opener;
use lingot_device::reserve;
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::path::{Path, PathBuf};
use std::rc::Rc;
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
    /// Sentences: what went wrong after the last step was saved.
    pub warnings: Vec<String>,
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
    again(|back| {
        let start = Start::open(resolved, dataset, device, interrupted, back)?;
        start.train(Alone::default(), listen)
    })
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
    let tamper = Rc::new(tamper);
    again(|back| {
        let start = Start::open(resolved, dataset, device, interrupted, back)?;
        let tamper = tamper.clone();
        let crew = Emulated::new(&resolved.run, device, Box::new(move |a, b, c| tamper(a, b, c)));
        let fleet = Fleet::emulated(&resolved.run, crew, &device.info().name, start.step())?;
        start.train_fleet(fleet, listen)
    })
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
    again(|back| {
        let start = Start::open(resolved, dataset, &host, interrupted, back)?;
        let fleet = Fleet::open(&resolved.run, Threads::new(&resolved.run, open.clone()), start.step())?;
        start.train_fleet(fleet, listen)
    })
}

/// How far a run came.
pub(crate) enum Ended {
    Done(Summary),
    /// It has diverged and goes on from an earlier checkpoint.
    RolledBack(Back),
}

/// Why a run goes back, and where to.
pub(crate) struct Back {
    /// A sentence.
    pub(crate) reason: String,
    /// It goes on from a checkpoint that is older than this step; none for the newest.
    pub(crate) before: Option<u64>,
}

/// A run that trains.
pub(crate) struct Run<'a, E: Engine> {
    pub(crate) engine: E,
    pub(crate) training: Training<'a>,
    pub(crate) record: Record<'a>,
    /// Followed where the run's file names devices.
    pub(crate) roster: Roster,
}

impl<E: Engine> Run<'_, E> {
    pub(crate) fn train(mut self) -> Result<Ended> {
        match self.complete() {
            Err(error) if error.kind == ProblemKind::Diverged => self.roll_back(error),
            done => done.map(Ended::Done),
        }
    }

    fn complete(&mut self) -> Result<Summary> {
        if self.training.position.held_out.is_none() {
            self.attempt(Doing::Evaluation, Self::evaluate)?;
        }
        let first_held_out_loss = self.training.position.held_out;
        let stopped = self.go()?;
        let reason = stopped.map_or_else(|| "interrupted".into(), |reason| reason.to_string());
        self.finish_saving()?;
        let spent = self.training.meter.spent();
        // The last step is saved: a log that cannot be closed does not undo it.
        let closed = self.record.end(&self.training, &reason, spent);
        let Training { run, position, saver, .. } = &self.training;
        Ok(Summary {
            reason,
            interrupted: stopped.is_none(),
            step: position.step,
            held_out_loss: position.held_out,
            first_held_out_loss,
            tokens: position.tokens,
            seconds: spent.seconds,
            money: spent.money,
            checkpoint: saver.newest().to_owned(),
            warnings: closed.err().map(|error| error.problem).into_iter().collect(),
            parameters: run.model.parameters() + run.model.mtp_parameters(),
        })
    }

    /// Goes back to the last sound checkpoint, where there is one and it has not done so too often. What
    /// was saved of weights that had diverged is set aside in any case, so that nothing goes on from it.
    fn roll_back(mut self, error: Problem) -> Result<Ended> {
        let Training { run, position, data_check, .. } = &self.training;
        let (folder, step) = (Path::new(&run.folder), position.step);
        let (first_step, sound_step) = (data_check.first_step, self.training.sound_step());
        let checkpoints = folder.join("checkpoints");
        // Not one step went well: the checkpoint has diverged, or something else is wrong. An older one
        // tells, and until then this one stays.
        if run.guard.fall_back && first_step > 0 && sound_step.is_none_or(|sound| sound < first_step) {
            let older = newest::list(&checkpoints)?.into_iter().rfind(|(step, _)| *step < first_step);
            let Some((older, _)) = older else { return Err(error) };
            let reason = format!(
                "went back to step {older}: no step went well from the checkpoint of step {first_step}: \
                 {}",
                error.problem
            );
            return Ok(Ended::RolledBack(Back { reason, before: Some(first_step) }));
        }
        let rollback = self.training.next_rollback(step, error.problem.clone());
        let rollback = rollback.filter(|_| run.guard.fall_back);
        newest::set_aside(&checkpoints, sound_step, "diverged")?;
        let Some(rollback) = rollback else { return Err(error) };
        let reason = format!(
            "went back from step {} to step {}: {}; the rate is {} of the usual up to step {}",
            step + 1,
            rollback.to_step,
            error.problem,
            rollback.factor,
            rollback.until_step
        );
        self.training.rollbacks.add(folder, rollback)?;
        Ok(Ended::RolledBack(Back { reason, before: None }))
    }

    /// Waits for the checkpoint under way, and records it.
    fn finish_saving(&mut self) -> Result<()> {
        if self.training.is_interrupted() {
            self.training.saver.hurry();
        }
        let saved = self.training.saver.finish()?;
        self.record.saved(&mut self.training, saved)
    }

    /// Takes step after step until a limit is met or the run is interrupted. Returns why it stopped, or
    /// `None` if interrupted.
    fn go(&mut self) -> Result<Option<StopReason>> {
        let mut is_save_due = false;
        loop {
            let stop = why_stop(&self.training.run.stop, &self.training.progress());
            if stop.is_some() || self.training.is_interrupted() {
                self.close(stop.is_some())?;
                return Ok(stop);
            }
            self.attempt(Doing::Saving, |this| this.record.follow_saver(&mut this.training))?;
            self.check_data()?;
            self.attempt(Doing::Step, |_| check_memory())?;
            let before = self.training.position.step;
            let taken = self.attempt(Doing::Step, Self::step)?;
            if let Some(taken) = taken {
                self.attempt(Doing::Record, |this| this.record.step(&mut this.training, &taken))?; // record
            }
            let due = due(self.training.run, before, self.training.position.step);
            if due.evaluation {
                self.attempt(Doing::Evaluation, Self::evaluate)?;
            }
            is_save_due |= due.checkpoint;
            // While steps are skipped, there is nothing worth saving.
            if is_save_due && self.training.step_guard.is_calm() {
                self.attempt(Doing::Checkpoint, Self::save)?;
                is_save_due = false;
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

    /// Errors once the prepared data is known to be damaged. What was saved since this process began to read
    /// it is set aside.
    fn check_data(&mut self) -> Result<()> {
        let checked = self.training.data_check.poll();
        checked.map_err(|error| {
            let _ = self.training.saver.finish();
            let first_step = self.training.data_check.first_step;
            let folder = Path::new(&self.training.run.folder).join("checkpoints");
            let aside = newest::set_aside(&folder, Some(first_step), "doubtful");
            let steps = format!("the steps after step {first_step} may have read it");
            let saved = match aside {
                Ok(()) => "what was saved of them is set aside".into(),
                Err(error) => error.problem,
            };
            Problem { problem: format!("{}; {steps}; {saved}", error.problem), ..error }
        })
    }

    /// The failure policy: saves what is sound, unless an input or the run's own numbers are at fault, and
    /// finishes the save under way in any case.
    fn give_up(&mut self, error: Problem, doing: Doing) -> Problem {
        self.training.saver.hurry();
        self.record.give_up_waiting();
        self.finish_anyhow();
        if !rescue::is_saved_before(error.kind) {
            return error;
        }
        let step = self.training.position.step;
        if self.training.position.written_step != Some(step) {
            // What cannot be written down is saved all the same.
            let _ = self.snapshot();
            self.finish_anyhow();
        }
        let Training { run, position, home, .. } = &self.training;
        let (saved_step, is_torn) = (position.written_step, home.is_torn);
        rescue::explain(error, run, &Stopped { doing, step, saved_step, is_torn })
    }

    /// Waits for the checkpoint under way, whatever becomes of its record.
    fn finish_anyhow(&mut self) {
        let finished = self.training.saver.finish().ok().flatten();
        self.training.position.written_step =
            finished.as_ref().map(|saved| saved.step).or(self.training.position.written_step);
        let _ = self.record.saved(&mut self.training, finished);
    }
}

/// Errors once the program lives on its reserve of memory: there is just enough to save and stop.
fn check_memory() -> Result<()> {
    if !reserve::is_low() {
        return Ok(());
    }
    let kind = ProblemKind::DeviceFull { needs_bytes: 0, has_bytes: 0 };
    Err(Problem::new("the host's memory is exhausted", "give the run more memory, or a smaller batch.micro")
        .of(kind))
}
