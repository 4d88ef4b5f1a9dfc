//! A run while it trains: what it is, where its weights are, how far it has come, and what it has cost.

use crate::checkpoint::{self, Saver, Saving, Snapshot, Tensor, manifest, newest};
use crate::compute::Outcome;
use crate::data::{DataCheck, Samples, StepBatch};
use crate::evaluate::{self, HeldOut};
use crate::guard::finite::is_sane;
use crate::guard::stop::Progress;
use crate::home::Home;
use crate::meter::Meter;
use crate::optimizer::At;
use crate::patience;
use crate::resume;
use crate::rollbacks::{Rollback, Rollbacks};
use crate::schedule;
use crate::step_guard::StepGuard;
use lingot_data::Dataset;
use lingot_device::Device;
use lingot_model::Totals;
use lingot_spec::RunSpec;
use lingot_spec::manifest::ManifestHead;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// All that a run has besides its engine and its record.
pub(crate) struct Training<'a> {
    pub(crate) run: &'a RunSpec,
    pub(crate) dataset: &'a Dataset,
    /// Becomes true when the user asks the run to stop.
    pub(crate) interrupted: &'a AtomicBool,
    pub(crate) home: Home,
    pub(crate) position: Position,
    pub(crate) meter: Meter,
    pub(crate) saver: Saver,
    /// Judges steps, and remembers what it has seen.
    pub(crate) step_guard: StepGuard,
    /// Where the run has gone back, and at what rate it goes on.
    pub(crate) rollbacks: Rollbacks,
    /// Compares the prepared files with their hashes, in the background.
    pub(crate) data_check: DataCheck,
    /// Whether newer checkpoints than the one that was restored are thought to have diverged. The first step
    /// that goes well shows that they have.
    doubts_newer: bool,
}

/// How far a run has come.
#[derive(Default)]
pub(crate) struct Position {
    /// Steps taken.
    pub(crate) step: u64,
    /// Tokens trained on.
    pub(crate) tokens: u64,
    /// Samples of the training text that were taken: the next step's first.
    pub(crate) samples: u64,
    /// The last held-out loss.
    pub(crate) held_out: Option<f64>,
    /// The step of the last held-out loss.
    pub(crate) evaluated_step: Option<u64>,
    /// The step of the last checkpoint, which may be under way.
    pub(crate) saved_step: Option<u64>,
    /// The step of the last checkpoint that is complete.
    pub(crate) written_step: Option<u64>,
    /// Checkpoints up to this step are sound: a step or an evaluation with such weights went well.
    pub(crate) sound_step: Option<u64>,
    /// The learning rate of the step taken last.
    pub(crate) last_rate: f64,
}

/// What a run found in its folder when it began.
#[derive(Default)]
pub(crate) struct Found {
    /// The checkpoint that it goes on from.
    pub(crate) checkpoint: Option<PathBuf>,
    /// What was wrong with newer checkpoints.
    pub(crate) damaged: Vec<String>,
    /// A sentence: what the log tells of checkpoints that are gone.
    pub(crate) gone: Option<String>,
    /// A sentence: why the run went back to its checkpoint, where it did.
    pub(crate) rolled_back: Option<String>,
    /// What an engine kept in the checkpoint: tensors named `sync/...`.
    pub(crate) sync: Vec<Tensor>,
}

impl<'a> Training<'a> {
    /// Begins a run, or goes on from the newest sound checkpoint of its folder, or of those older than step
    /// `before`. The home is on `device`.
    pub(crate) fn open(
        run: &'a RunSpec,
        dataset: &'a Dataset,
        device: &Device,
        interrupted: &'a AtomicBool,
        before: Option<u64>,
    ) -> Result<(Training<'a>, Found)> {
        let folder = Path::new(&run.folder);
        let data_check = DataCheck::begin(dataset)?;
        let latest = newest::latest_before(&folder.join("checkpoints"), before)?;
        let path = latest.as_ref().map(|(path, _)| path.as_path());
        let mut training = Training {
            home: if path.is_some() { Home::blank(run, device)? } else { Home::new(run, device)? },
            saver: Saver::new(folder, path, run.checkpoint.wait_s),
            position: Position::default(),
            meter: Meter::begin(),
            step_guard: StepGuard::default(),
            rollbacks: Rollbacks::default(),
            data_check,
            doubts_newer: false,
            run,
            dataset,
            interrupted,
        };
        let Some((path, damaged)) = latest else { return Ok((training, Found::default())) };
        let sync = training.restore(&path)?;
        training.doubts_newer = before.is_some();
        if !training.doubts_newer {
            newest::set_aside_newer(&folder.join("checkpoints"), training.position.step)?;
        }
        training.data_check.first_step = training.position.step;
        Ok((training, Found { checkpoint: Some(path), damaged, sync, ..Found::default() }))
    }

    /// Takes everything from a checkpoint. Returns what an engine kept there.
    fn restore(&mut self, path: &Path) -> Result<Vec<Tensor>> {
        let loaded = patience::reading(|| checkpoint::load(path))?;
        let head = &loaded.manifest.head;
        manifest::check_model(path, &head.model, &self.run.model)?;
        if head.seed != self.run.seed {
            return Err(Problem::new(
                format!(
                    "{} was trained with seed {}, the run has seed {}",
                    path.display(),
                    head.seed,
                    self.run.seed
                ),
                "restore the seed, or give the run another folder",
            )
            .of(ProblemKind::Input));
        }
        let samples = resume::samples(head, self.run)?;
        resume::check_data(path, head, self.dataset.hashes(), self.run)?;
        checkpoint::restore(&mut self.home, path, &loaded)?;
        self.meter.before_s = head.seconds;
        self.position = Position {
            step: head.step,
            tokens: head.tokens,
            samples,
            saved_step: Some(head.step),
            written_step: Some(head.step),
            // Whether the newest is sound is not known before its first step.
            sound_step: head.step.checked_sub(1),
            ..Position::default()
        };
        self.step_guard = StepGuard::new(head.guard.clone());
        self.rollbacks = Rollbacks::read(Path::new(&self.run.folder), head.step, self.run.optimizer.rate);
        Ok(loaded.moments.into_iter().filter(|(name, _, _)| name.starts_with("sync/")).collect())
    }

    /// Reads the next step's micro-batches: those of a batch that is to be tried again, or the next of the
    /// text. A function of the seed, the position and what the guard remembers.
    pub(crate) fn fetch(&self) -> Result<StepBatch> {
        self.read(self.next())
    }

    /// The samples of the next step.
    pub(crate) fn next(&self) -> Samples {
        match self.step_guard.due(self.position.step) {
            Some(retry) => Samples { first: retry.first_sample, sequences: retry.sequences },
            None => Samples { first: self.position.samples, sequences: self.sequences(self.position.step) },
        }
    }

    /// The samples of the step after the next, if the next one is applied; none if it is the run's last.
    pub(crate) fn after_next(&self) -> Option<Samples> {
        let step = self.position.step;
        if step + 1 >= self.run.stop.steps {
            return None;
        }
        if let Some(retry) = self.step_guard.expected(step) {
            return Some(Samples { first: retry.first_sample, sequences: retry.sequences });
        }
        // A batch that is tried again is not the next of the text.
        let is_retry = self.step_guard.due(step).is_some();
        let taken = if is_retry { 0 } else { u64::from(self.sequences(step)) };
        Some(Samples { first: self.position.samples + taken, sequences: self.sequences(step + 1) })
    }

    /// Reads samples as micro-batches. A function of the seed and of which samples they are.
    pub(crate) fn read(&self, samples: Samples) -> Result<StepBatch> {
        StepBatch::read(self.run, self.dataset, samples.first, samples.sequences)
    }

    /// Sequences of the step after `step` steps.
    fn sequences(&self, step: u64) -> u32 {
        schedule::sequences_at(&self.run.batch, step)
    }

    /// The learning rate of the step after `step` steps.
    pub(crate) fn rate(&self, step: u64) -> f64 {
        let run = self.run;
        self.rollbacks.factor(step) * schedule::rate(&run.schedule, run.optimizer.rate, step, run.stop.steps)
    }

    /// Where the run would go back to from the step after `step` steps; none where no checkpoint is known to
    /// be sound, or where it went back too often.
    pub(crate) fn next_rollback(&self, step: u64, reason: String) -> Option<Rollback> {
        let all = newest::list(&Path::new(&self.run.folder).join("checkpoints")).ok()?;
        let sound_step = self.sound_step()?;
        let (to_step, _) = all.into_iter().rfind(|(found, _)| *found <= sound_step)?;
        self.rollbacks.next(to_step, step + 1, self.run.optimizer.rate, reason)
    }

    /// Applies the gradients in the home as the next step, or skips it as the guard decides. Errors if the
    /// run has diverged.
    pub(crate) fn update(&mut self, totals: Totals, outcome: &Outcome) -> Result<()> {
        let run = self.run;
        let step = self.position.step;
        let is_retry = self.step_guard.due(step).is_some();
        let batch = (self.position.samples, self.sequences(step));
        let mut step_guard = std::mem::take(&mut self.step_guard);
        let can_roll_back = || self.next_rollback(step, String::new()).is_some();
        let decision = step_guard.decide(self.dataset, run, step, batch, outcome, &can_roll_back);
        self.step_guard = step_guard;
        let decision = decision?;
        let at = At { step, rate: self.rate(step) * decision.rate_factor };
        self.position.last_rate = at.rate;
        if decision.is_applied {
            self.home.update(run, at, totals, outcome)?;
        }
        if decision.is_sound && is_sane(outcome.losses.main, run.model.vocabulary) {
            self.note_sound(step)?;
        }
        if !is_retry {
            self.position.samples += u64::from(batch.1);
        }
        self.position.step += 1;
        self.position.tokens += totals.tokens;
        Ok(())
    }

    /// Notes that a step went well which was computed with the weights of step `step`.
    pub(crate) fn note_sound(&mut self, step: u64) -> Result<()> {
        self.position.sound_step = Some(step);
        if !std::mem::take(&mut self.doubts_newer) {
            return Ok(());
        }
        newest::set_aside(&Path::new(&self.run.folder).join("checkpoints"), Some(step), "diverged")
    }

    /// Scores the held-out text with the weights in the home.
    pub(crate) fn evaluate(&self) -> Result<HeldOut> {
        evaluate::held_out(&self.home.model, self.dataset, &self.run.evaluation, &self.run.batch)
    }

    /// Begins to write a checkpoint in the background, for which the run has waited `waited_s` seconds.
    /// `toml` is the resolved run. The one before must be finished.
    pub(crate) fn save(&mut self, snapshot: Snapshot, toml: &str, waited_s: f64) -> Result<()> {
        let spent = self.meter.spent();
        let head = ManifestHead {
            lingot: env!("CARGO_PKG_VERSION").into(),
            step: self.position.step,
            tokens: self.position.tokens,
            samples: Some(self.position.samples),
            seconds: spent.seconds,
            money: spent.money,
            seed: self.run.seed,
            model: self.run.model.clone(),
            run: toml.into(),
            data: Some(self.dataset.hashes().clone()),
            guard: self.step_guard.state(),
            merged: Vec::new(),
        };
        let keep = self.run.checkpoint.keep;
        let sound_step = self.sound_step();
        self.saver.begin(Saving { head, snapshot, keep, sound_step, waited_s })?;
        self.position.saved_step = Some(self.position.step);
        Ok(())
    }

    /// Checkpoints up to this step are sound, and were made of data that is.
    pub(crate) fn sound_step(&self) -> Option<u64> {
        let of_data = self.data_check.is_pending().then_some(self.data_check.first_step);
        self.position.sound_step.map(|step| of_data.map_or(step, |first| step.min(first)))
    }

    /// What decides whether the run goes on.
    pub(crate) fn progress(&self) -> Progress {
        let spent = self.meter.spent();
        Progress {
            step: self.position.step,
            tokens: self.position.tokens,
            hours: spent.seconds / 3600.0,
            money: spent.money,
            loss: self.position.held_out,
        }
    }

    /// Passes over the training text so far.
    pub(crate) fn epoch(&self) -> f64 {
        self.dataset.epoch(self.position.samples)
    }

    /// Whether the user has asked the run to stop.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
