//! What a run leaves behind as it goes: `run.jsonl`, TensorBoard files, and whoever listens.

use crate::config::Resolved;
use crate::fleet::{Attendance, Fleet, Gathered, Happening};
use crate::ledger::{Busy, Ledger, Part};
use crate::local::Round;
use crate::log::Log;
use crate::tfevents::EventFile;
use crate::worker::{Outcome, StepBatch, Worker};
use lingot_spec::Result;
use lingot_spec::event::{
    Anomaly, Checkpoint, End, Evaluation, Event, Exchange, ExpertLoad, Experts, Prediction, Resume, SCHEMA,
    Start, Step, WorkerShare,
};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Expert loads and the ledger are logged after so many steps each.
const EXPERTS_EVERY: u64 = 10;
const LEDGER_EVERY: u64 = 10;

/// The run's log, its TensorBoard file and its listener.
pub(crate) struct Record<'a> {
    log: Log,
    board: EventFile,
    listen: &'a mut dyn FnMut(&Event),
    lap: Instant,
    ledger: Ledger,
}

impl<'a> Record<'a> {
    /// Opens both files as they were at the worker's step, and says that the run begins or goes on.
    pub(crate) fn open(
        resolved: &Resolved,
        worker: &Worker<'_>,
        ledger: Ledger,
        listen: &'a mut dyn FnMut(&Event),
    ) -> Result<Record<'a>> {
        let run = &resolved.run;
        let folder = Path::new(&run.folder);
        let log = Log::open(folder, worker.step)?;
        let board = EventFile::create(&folder.join("tensorboard"), now_s(), worker.step)?;
        let mut record = Record { log, board, listen, lap: Instant::now(), ledger };
        if let Some((path, warnings)) = &worker.resumed {
            for reason in warnings {
                let (step, kind, reason) = (worker.step, "damaged_checkpoint".into(), reason.clone());
                record.write(Event::Anomaly(Anomaly { step, kind, reason }))?;
            }
            let from = relative(path, folder);
            record.write(Event::Resume(Resume { step: worker.step, from }))?;
        } else {
            record.write(Event::Start(Start {
                schema: SCHEMA,
                lingot: env!("CARGO_PKG_VERSION").into(),
                run: run.name.clone(),
                config_hash: blake3::hash(resolved.toml.as_bytes()).to_hex().to_string(),
                device: worker.model.device.info().name.clone(),
                parameters: run.model.parameters() + run.model.mtp_parameters(),
                activated_parameters: run.model.activated_parameters(),
                steps: run.stop.steps,
                unix_time_s: now_s(),
                currency: run.price.as_ref().map(|price| price.currency.clone()),
            }))?;
        }
        if let Some(prediction) = &resolved.prediction {
            let prediction = Prediction { step: worker.step, ..prediction.clone() };
            record.write(Event::Prediction(prediction))?;
        }
        record.line(worker, Part::Idle)?;
        Ok(record)
    }

    /// The time since the last lap went to one part.
    pub(crate) fn lap(&mut self, part: Part) {
        self.ledger.lap(part, Instant::now());
    }

    /// Closes a lap and writes the ledger.
    fn line(&mut self, worker: &Worker<'_>, part: Part) -> Result<()> {
        self.lap(part);
        self.ledger.peak_memory(0, worker.model.device.memory_in_use().peak_bytes);
        worker.model.device.restart_peak();
        let line = self.ledger.line(worker.step, worker.tokens, worker.run.stop.loss);
        self.write(Event::Ledger(line))
    }

    /// A step was taken, or skipped.
    pub(crate) fn step(&mut self, worker: &Worker<'_>, batch: &StepBatch, outcome: &Outcome) -> Result<()> {
        let lap_s = self.lap.elapsed().as_secs_f64();
        self.lap = Instant::now();
        let losses = outcome.losses;
        if !outcome.is_finite() {
            let reason = format!(
                "skipped: loss {}, gradient norm {} are not both finite",
                losses.total, outcome.gradient_norm
            );
            self.write(Event::Anomaly(Anomaly { step: worker.step, kind: "not_finite".into(), reason }))?;
        }
        let step = Step {
            step: worker.step,
            loss: losses.total,
            main_loss: losses.main,
            mtp_loss: (worker.run.model.mtp_layers > 0).then_some(losses.mtp),
            balance_loss: losses.balance,
            z_loss: losses.z,
            rate: worker.last_rate,
            gradient_norm: outcome.gradient_norm,
            tokens: worker.tokens,
            tokens_per_s: batch.totals.tokens as f64 / lap_s,
            seconds: worker.seconds(),
            money: worker.money(),
            epoch: worker.epoch(),
        };
        self.board.scalars(now_s(), worker.step, &scalars(&step))?;
        self.write(Event::Step(step))?;
        if worker.step.is_multiple_of(EXPERTS_EVERY) {
            self.experts(worker, outcome)?;
        }
        if worker.step.is_multiple_of(LEDGER_EVERY) {
            self.line(worker, Part::Idle)?;
        }
        Ok(())
    }

    /// Devices came or went in the step that was begun.
    pub(crate) fn changes(&mut self, worker: &mut Worker<'_>, fleet: &mut Fleet) -> Result<()> {
        let changes = fleet.take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        for Happening { kind, reason } in changes {
            self.write(Event::Anomaly(Anomaly { step: worker.step, kind: kind.into(), reason }))?;
        }
        let attendance = fleet.attendance();
        for (seat, Attendance { name, per_hour, is_here }) in attendance.iter().enumerate() {
            self.ledger.attend(seat, name, *per_hour, *is_here);
        }
        let present = attendance.iter().filter(|device| device.is_here);
        worker.reprice(present.map(|device| device.per_hour).sum(), true);
        Ok(())
    }

    /// A fleet's step is over: the time since the last lap was spent on it.
    pub(crate) fn gathered(&mut self, fleet: &Fleet, gathered: Gathered) -> Result<()> {
        self.ledger.lap_fleet(&gathered.busy, Instant::now());
        for (index, peak_bytes) in fleet.peaks().enumerate() {
            self.ledger.peak_memory(index, peak_bytes);
        }
        self.write(Event::Exchange(gathered.exchange))
    }

    /// A fleet's devices met: the time since the last lap was spent on it.
    pub(crate) fn met(
        &mut self,
        worker: &Worker<'_>,
        fleet: &Fleet,
        round: &Round,
        busy: &[Busy],
    ) -> Result<()> {
        self.ledger.lap_fleet(busy, Instant::now());
        for (seat, peak_bytes) in fleet.peaks().enumerate() {
            self.ledger.peak_memory(seat, peak_bytes);
        }
        self.exchange(worker, round)
    }

    /// Workers met.
    pub(crate) fn exchange(&mut self, worker: &Worker<'_>, round: &Round) -> Result<()> {
        for (layer, rank, verdict) in &round.anomalies {
            let reason = format!("the change of {layer} by worker {rank} does not count: {verdict}");
            self.write(Event::Anomaly(Anomaly { step: worker.step, kind: "outlier".into(), reason }))?;
        }
        let share = |rank: usize| WorkerShare {
            own_steps: round.own_steps[rank],
            busy_s: round.busy_s[rank],
            exchange_s: round.exchange_s[rank],
            waiting_s: round.waiting_s[rank],
            weight: round.weights[rank],
        };
        self.write(Event::Exchange(Exchange {
            step: worker.step,
            reason: round.reason.clone(),
            bytes: round.bytes,
            predicted_bytes: round.predicted_bytes,
            workers: (0..round.own_steps.len()).map(share).collect(),
            pieces: Vec::new(),
        }))
    }

    fn experts(&mut self, worker: &Worker<'_>, outcome: &Outcome) -> Result<()> {
        let dense = worker.run.model.dense_layers;
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
        self.board.scalars(now_s(), worker.step, &tags)?;
        self.write(Event::Experts(Experts { step: worker.step, layers }))
    }

    /// Scores the held-out text; the worker remembers the loss.
    pub(crate) fn evaluation(&mut self, worker: &mut Worker<'_>) -> Result<()> {
        self.lap(Part::Idle);
        let scored = worker.evaluate()?;
        self.lap(Part::Evaluation);
        self.ledger.mark(scored.loss, worker.tokens);
        worker.held_out = Some(scored.loss);
        worker.evaluated_step = Some(worker.step);
        self.board.scalars(now_s(), worker.step, &[("held_out/loss", scored.loss)])?;
        self.write(Event::Evaluation(Evaluation {
            step: worker.step,
            loss: scored.loss,
            perplexity: scored.loss.exp(),
            bits_per_byte: scored.bits_per_byte,
        }))?;
        self.lap = Instant::now();
        self.line(worker, Part::Evaluation)
    }

    /// Saves, and says how long the run waited for it.
    pub(crate) fn checkpoint(&mut self, worker: &mut Worker<'_>, resolved: &Resolved) -> Result<()> {
        let begin = Instant::now();
        self.lap(Part::Idle);
        self.log.sync()?;
        let path = worker.save(resolved)?;
        self.write(Event::Checkpoint(Checkpoint {
            step: worker.step,
            path: relative(&path, Path::new(&worker.run.folder)),
            seconds: begin.elapsed().as_secs_f64(),
        }))?;
        self.lap = Instant::now();
        self.line(worker, Part::Checkpoint)
    }

    /// The run is over; since the last lap it waited for its last checkpoint.
    pub(crate) fn end(&mut self, worker: &Worker<'_>, reason: &str) -> Result<()> {
        self.line(worker, Part::Checkpoint)?;
        self.write(Event::End(End {
            step: worker.step,
            reason: reason.into(),
            held_out_loss: worker.held_out,
            tokens: worker.tokens,
            seconds: worker.seconds(),
            money: worker.money(),
        }))?;
        self.log.sync()
    }

    fn write(&mut self, event: Event) -> Result<()> {
        self.log.write(&event)?;
        (self.listen)(&event);
        Ok(())
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
