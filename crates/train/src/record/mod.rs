//! What a run leaves behind as it goes: `run.jsonl`, TensorBoard files, the ledger, and what a listener sees.
//! It only writes; nothing that trains reads it.

pub mod ledger;
pub mod log;
pub mod tfevents;

use crate::checkpoint::{Saved, Snapshot};
use crate::compute::Outcome;
use crate::config::Resolved;
use crate::engine::{DeviceChange, Meeting, PaidDevice, Taken};
use crate::guard::finite::is_sane;
use crate::meter::Spent;
use crate::patience;
use crate::step_guard::Quarantined;
use crate::training::{Found, Training};
use ledger::{Ledger, Part};
use lingot_spec::event::{
    Anomaly, Checkpoint, End, Evaluation, Event, ExpertLoad, Experts, Prediction, Resume, SCHEMA, Start, Step,
};
use lingot_spec::problem::{Problem, Result};
use log::Log;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tfevents::EventFile;

/// Expert loads are logged every this many steps.
const EXPERTS_EVERY: u64 = 10;
/// A TensorBoard file that failed is tried again every this many steps.
const BOARD_EVERY: u64 = 100;
/// The ledger is logged every this many steps.
const LEDGER_EVERY: u64 = 10;

/// The run's log, its TensorBoard file and its listener.
pub(crate) struct Record<'a> {
    resolved: &'a Resolved,
    log: Log,
    /// None while it cannot be written: a run does without.
    board: Option<EventFile>,
    /// How long a disk is waited for.
    wait: Duration,
    interrupted: &'a AtomicBool,
    listen: &'a mut dyn FnMut(&Event),
    /// When the step under way began.
    step_began: Instant,
    ledger: Ledger,
}

impl<'a> Record<'a> {
    /// Opens both files as they were at the run's step, and says that the run begins or goes on. `unreadable`
    /// are the lines of the log that could not be read.
    pub(crate) fn open(
        resolved: &'a Resolved,
        training: &Training<'a>,
        found: &Found,
        unreadable: Vec<String>,
        ledger: Ledger,
        listen: &'a mut dyn FnMut(&Event),
    ) -> Result<Record<'a>> {
        let folder = Path::new(&resolved.run.folder);
        let step = training.position.step;
        let log = Log::open(folder, step)?;
        let board = None;
        let wait = Duration::try_from_secs_f64(resolved.run.checkpoint.wait_s).unwrap_or(Duration::MAX);
        let (interrupted, step_began) = (training.interrupted, Instant::now());
        let mut record = Record { resolved, log, board, wait, interrupted, listen, step_began, ledger };
        for reason in &found.damaged {
            record.anomaly(step, "damaged_checkpoint", reason.clone())?;
        }
        match &found.checkpoint {
            Some(path) => record.write(Event::Resume(Resume { step, from: relative(path, folder) }))?,
            None => record.write(Event::Start(start(resolved, training)))?,
        }
        record.open_board(step)?;
        for reason in unreadable {
            record.anomaly(step, "unreadable_log", reason)?;
        }
        if let Some(reason) = &found.gone {
            record.anomaly(step, "no_checkpoint", reason.clone())?;
        }
        if let Some(reason) = &found.rolled_back {
            record.anomaly(step, "rolled_back", reason.clone())?;
        }
        if let Some(prediction) = &resolved.prediction {
            record.write(Event::Prediction(Prediction { step, ..prediction.clone() }))?;
        }
        record.write_ledger(training, Part::Idle)?;
        Ok(record)
    }

    /// Waits for no disk any more: the run ends.
    pub(crate) fn give_up_waiting(&mut self) {
        self.wait = Duration::ZERO;
    }

    /// Attributes the time since the last such moment to one part.
    pub(crate) fn lap(&mut self, part: Part) {
        self.ledger.lap(part, Instant::now());
    }

    /// Records a step that was taken, or skipped.
    pub(crate) fn step(&mut self, training: &mut Training<'_>, taken: &Taken) -> Result<()> {
        for note in training.step_guard.take_notes() {
            if let Some(quarantined) = &note.quarantined {
                self.quarantine(quarantined)?;
            }
            self.anomaly(training.position.step, note.kind, note.reason)?;
        }
        let training = &*training;
        let (position, outcome) = (&training.position, &taken.outcome);
        match &taken.meeting {
            Some(meeting) => self.meeting(position.step, meeting)?,
            None => self.lap(Part::Compute),
        }
        let step_s = self.step_began.elapsed().as_secs_f64();
        self.step_began = Instant::now();
        let losses = outcome.losses;
        let spent = training.meter.spent();
        let step = Step {
            step: position.step,
            loss: losses.total,
            main_loss: losses.main,
            mtp_loss: (training.run.model.mtp_layers > 0).then_some(losses.mtp),
            balance_loss: losses.balance,
            z_loss: losses.z,
            rate: position.last_rate,
            gradient_norm: outcome.gradient_norm,
            tokens: position.tokens,
            tokens_per_s: taken.totals.tokens as f64 / step_s,
            seconds: spent.seconds,
            money: spent.money,
            epoch: training.epoch(),
        };
        self.scalars(position.step, &scalars(&step))?;
        self.write(Event::Step(step))?;
        if position.step.is_multiple_of(EXPERTS_EVERY) {
            self.experts(training, outcome)?;
        }
        if position.step.is_multiple_of(LEDGER_EVERY) {
            self.write_ledger(training, Part::Idle)?;
        }
        Ok(())
    }

    /// Records what the workers of a step did: the time since the last lap was spent on it.
    fn meeting(&mut self, step: u64, meeting: &Meeting) -> Result<()> {
        if meeting.busy.is_empty() {
            self.lap(Part::Compute);
        } else {
            self.ledger.lap_fleet(&meeting.busy, Instant::now());
            for (number, &bytes) in meeting.peak_memory_bytes.iter().enumerate() {
                self.ledger.peak_memory(number, bytes);
            }
        }
        for outlier in &meeting.outliers {
            let reason = format!(
                "the change of {} by worker {} does not count: {}",
                outlier.layer, outlier.worker, outlier.verdict
            );
            self.anomaly(step, "outlier", reason)?;
        }
        let mut exchange = meeting.exchange.clone();
        exchange.step = step;
        self.write(Event::Exchange(exchange))
    }

    /// Records devices that came or went, in the step that was begun.
    pub(crate) fn devices(
        &mut self,
        training: &mut Training<'_>,
        changes: Vec<DeviceChange>,
        devices: &[PaidDevice],
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        for DeviceChange { kind, reason } in changes {
            self.anomaly(training.position.step, kind, reason)?;
        }
        for (number, PaidDevice { name, per_hour, is_here }) in devices.iter().enumerate() {
            self.ledger.note_device(number, name, *per_hour, *is_here);
        }
        let present = devices.iter().filter(|device| device.is_here);
        training.meter.reprice(present.map(|device| device.per_hour).sum());
        Ok(())
    }

    fn experts(&mut self, training: &Training<'_>, outcome: &Outcome) -> Result<()> {
        let dense = training.run.model.dense_layers;
        let load = |(index, loads): (usize, &Vec<i32>)| {
            let counts: Vec<u64> = loads.iter().map(|&load| load.unsigned_abs().into()).collect();
            ExpertLoad::from_counts(dense + index as u32, &counts)
        };
        let layers: Vec<ExpertLoad> = outcome.loads.iter().enumerate().map(load).collect();
        let tags: Vec<(String, f64)> = layers
            .iter()
            .map(|load| (format!("experts/max_over_mean/layer_{}", load.layer), load.max_over_mean))
            .collect();
        let tags: Vec<(&str, f64)> = tags.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.scalars(training.position.step, &tags)?;
        self.write(Event::Experts(Experts { step: training.position.step, layers }))
    }

    /// Scores the held-out text, and remembers the loss.
    pub(crate) fn evaluation(&mut self, training: &mut Training<'_>) -> Result<()> {
        self.lap(Part::Idle);
        let scored = training.evaluate()?;
        self.lap(Part::Evaluation);
        let step = training.position.step;
        self.ledger.mark(scored.loss, training.position.tokens);
        training.position.held_out = Some(scored.loss);
        training.position.evaluated_step = Some(step);
        if is_sane(scored.loss, training.run.model.vocabulary) {
            training.position.sound_step = training.position.sound_step.max(Some(step));
        }
        self.scalars(step, &[("held_out/loss", scored.loss)])?;
        self.write(Event::Evaluation(Evaluation {
            step,
            loss: scored.loss,
            perplexity: scored.loss.exp(),
            bits_per_byte: scored.bits_per_byte,
        }))?;
        self.step_began = Instant::now();
        self.write_ledger(training, Part::Evaluation)
    }

    /// Begins to save a snapshot, and notes how long the run waited for that. Its event is written once it is
    /// complete.
    pub(crate) fn checkpoint(
        &mut self,
        training: &mut Training<'_>,
        snapshot: impl FnOnce(&Training<'_>) -> Result<Snapshot>,
    ) -> Result<()> {
        let begin = Instant::now();
        self.lap(Part::Idle);
        self.sync(training.position.step);
        let saved = training.saver.finish()?; // Only one snapshot is in memory at a time.
        self.saved(training, saved)?;
        let snapshot = snapshot(training)?;
        training.save(snapshot, &self.resolved.toml, begin.elapsed().as_secs_f64())?;
        self.step_began = Instant::now();
        self.write_ledger(training, Part::Checkpoint)
    }

    /// Records what has become of the checkpoint under way. Errors if it could not be written.
    pub(crate) fn follow_saver(&mut self, training: &mut Training<'_>) -> Result<()> {
        if let Some((step, problem)) = training.saver.trouble() {
            let reason = format!("the checkpoint of step {step} waits for its disk: {}", problem.problem);
            self.anomaly(training.position.step, "disk", reason)?;
        }
        let saved = training.saver.poll()?;
        self.saved(training, saved)
    }

    /// Records a checkpoint that is complete.
    pub(crate) fn saved(&mut self, training: &mut Training<'_>, saved: Option<Saved>) -> Result<()> {
        let Some(Saved { step, path, waited_s, not_removed }) = saved else { return Ok(()) };
        training.position.written_step = Some(step);
        if let Some(problem) = not_removed {
            let reason = format!("an old checkpoint stays: {}", problem.problem);
            self.anomaly(training.position.step, "disk", reason)?;
        }
        let path = relative(&path, Path::new(&training.run.folder));
        self.write(Event::Checkpoint(Checkpoint { step, path, seconds: waited_s }))
    }

    /// Records the end of the run, which waited for its last checkpoint since the last lap.
    pub(crate) fn end(&mut self, training: &Training<'_>, reason: &str, spent: Spent) -> Result<()> {
        self.write_ledger(training, Part::Checkpoint)?;
        self.write(Event::End(End {
            step: training.position.step,
            reason: reason.into(),
            held_out_loss: training.position.held_out,
            tokens: training.position.tokens,
            seconds: spent.seconds,
            money: spent.money,
        }))?;
        self.sync(training.position.step);
        Ok(())
    }

    /// Closes a lap and writes the ledger.
    fn write_ledger(&mut self, training: &Training<'_>, part: Part) -> Result<()> {
        self.lap(part);
        if training.run.devices.is_empty() {
            let device = &training.home.model.device;
            self.ledger.peak_memory(0, device.memory_in_use().peak_bytes);
            device.restart_peak();
        }
        let Training { run, position, .. } = training;
        let line = self.ledger.line(position.step, position.tokens, run.stop.loss);
        self.write(Event::Ledger(line))
    }

    fn anomaly(&mut self, step: u64, kind: &str, reason: String) -> Result<()> {
        self.write(Event::Anomaly(Anomaly { step, kind: kind.into(), reason }))
    }

    /// Writes an event, and shows it. A disk that is full or fails is waited for.
    fn write(&mut self, event: Event) -> Result<()> {
        let Record { log, wait, interrupted, listen, .. } = self;
        let mut say = |problem: &Problem| {
            // It cannot be logged, but it can be shown.
            let reason = format!("the log waits for its disk: {}", problem.problem);
            listen(&Event::Anomaly(Anomaly { step: event.step(), kind: "disk".into(), reason }));
        };
        let is_hurried = || interrupted.load(Ordering::Relaxed);
        patience::repeat(*wait, &is_hurried, &mut say, || log.write(&event))?;
        listen(&event);
        Ok(())
    }

    /// Waits until the log is on the disk. A log that may be lost in a power cut is no reason to stop.
    fn sync(&mut self, step: u64) {
        if let Err(problem) = self.log.sync() {
            // If this cannot be written either, the next event tells.
            let _ = self.anomaly(step, "disk", problem.problem);
        }
    }

    /// Adds scalars to the TensorBoard file. A run does without where that fails, and tries a new file later.
    fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        if self.board.is_none() && step.is_multiple_of(BOARD_EVERY) {
            self.open_board(step)?;
        }
        let written = self.board.as_mut().map(|board| board.scalars(now_s(), step, values));
        self.without_board(step, written.unwrap_or(Ok(())))
    }

    fn open_board(&mut self, step: u64) -> Result<()> {
        let folder = Path::new(&self.resolved.run.folder).join("tensorboard");
        let opened = EventFile::create(&folder, now_s(), step);
        let problem = opened.map(|board| self.board = Some(board));
        self.without_board(step, problem)
    }

    fn without_board(&mut self, step: u64, written: Result<()>) -> Result<()> {
        let Err(problem) = written else { return Ok(()) };
        self.board = None;
        let reason = format!("TensorBoard is not written for now: {}", problem.problem);
        self.anomaly(step, "disk", reason)
    }

    /// Appends a batch to the run's list of documents that were set aside.
    fn quarantine(&mut self, quarantined: &Quarantined) -> Result<()> {
        let path = Path::new(&self.resolved.run.folder).join("quarantine.jsonl");
        let line = serde_json::to_string(quarantined)
            .map_err(|error| Problem::bug(format!("cannot write JSON: {error}")))?;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        match file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            Ok(()) => Ok(()),
            Err(error) => self.anomaly(quarantined.step, "disk", Problem::io("write", &path, &error).problem),
        }
    }
}

fn start(resolved: &Resolved, training: &Training<'_>) -> Start {
    let run = &resolved.run;
    Start {
        schema: SCHEMA,
        lingot: env!("CARGO_PKG_VERSION").into(),
        run: run.name.clone(),
        config_hash: blake3::hash(resolved.toml.as_bytes()).to_hex().to_string(),
        device: training.home.model.device.info().name.clone(),
        parameters: run.model.parameters() + run.model.mtp_parameters(),
        activated_parameters: run.model.activated_parameters(),
        steps: run.stop.steps,
        unix_time_s: now_s(),
        currency: run.price.as_ref().map(|price| price.currency.clone()),
    }
}

fn scalars(step: &Step) -> Vec<(&'static str, f64)> {
    let mut values = vec![
        ("train/loss", step.loss),
        ("train/main_loss", step.main_loss),
        ("train/balance_loss", step.balance_loss),
        ("train/z_loss", step.z_loss),
        ("train/rate", step.rate),
        ("train/gradient_norm", step.gradient_norm),
        ("speed/tokens_per_s", step.tokens_per_s),
    ];
    values.extend(step.mtp_loss.map(|loss| ("train/mtp_loss", loss)));
    values.extend(step.money.map(|money| ("money/spent", money)));
    values
}

fn relative(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
