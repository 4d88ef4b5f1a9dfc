//! A run while it trains: what it is, where its weights are, how far it has come, and what it has cost.

use crate::checkpoint::{self, Saver, Saving, Snapshot, Tensor, manifest, newest};
use crate::compute::Outcome;
use crate::data::StepBatch;
use crate::evaluate::{self, HeldOut};
use crate::guard::finite;
use crate::guard::stop::Progress;
use crate::home::Home;
use crate::meter::Meter;
use crate::optimizer::At;
use crate::resume;
use crate::schedule;
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
    /// The step of the last checkpoint.
    pub(crate) saved_step: Option<u64>,
    /// The learning rate of the step taken last.
    pub(crate) last_rate: f64,
    /// Steps without a finite loss or gradient since the last one that was applied.
    pub(crate) skipped: u32,
}

/// What a run found in its folder when it began.
#[derive(Default)]
pub(crate) struct Found {
    /// The checkpoint that it goes on from.
    pub(crate) checkpoint: Option<PathBuf>,
    /// What was wrong with newer checkpoints.
    pub(crate) damaged: Vec<String>,
    /// What an engine kept in the checkpoint: tensors named `sync/...`.
    pub(crate) sync: Vec<Tensor>,
}

impl<'a> Training<'a> {
    /// Begins a run, or goes on from the newest sound checkpoint of its folder. The home is on `device`.
    pub(crate) fn open(
        run: &'a RunSpec,
        dataset: &'a Dataset,
        device: &Device,
        interrupted: &'a AtomicBool,
    ) -> Result<(Training<'a>, Found)> {
        let folder = Path::new(&run.folder);
        let latest = newest::latest(&folder.join("checkpoints"))?;
        let path = latest.as_ref().map(|(path, _)| path.as_path());
        let mut training = Training {
            home: if path.is_some() { Home::blank(run, device)? } else { Home::new(run, device)? },
            saver: Saver::new(folder, path),
            position: Position::default(),
            meter: Meter::begin(),
            run,
            dataset,
            interrupted,
        };
        let Some((path, damaged)) = latest else { return Ok((training, Found::default())) };
        let sync = training.restore(&path)?;
        newest::set_aside_newer(&folder.join("checkpoints"), training.position.step)?;
        Ok((training, Found { checkpoint: Some(path), damaged, sync }))
    }

    /// Takes everything from a checkpoint. Returns what an engine kept there.
    fn restore(&mut self, path: &Path) -> Result<Vec<Tensor>> {
        let loaded = checkpoint::load(path)?;
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
        checkpoint::restore(&mut self.home, path, &loaded)?;
        self.meter.before_s = head.seconds;
        self.position = Position {
            step: head.step,
            tokens: head.tokens,
            samples,
            saved_step: Some(head.step),
            ..Position::default()
        };
        Ok(loaded.moments.into_iter().filter(|(name, _, _)| name.starts_with("sync/")).collect())
    }

    /// Reads the next step's micro-batches: a function of the seed and the position alone.
    pub(crate) fn fetch(&self) -> Result<StepBatch> {
        StepBatch::read(self.run, self.dataset, self.position.samples, self.sequences())
    }

    /// Sequences of the next step.
    fn sequences(&self) -> u32 {
        schedule::sequences_at(&self.run.batch, self.position.step)
    }

    /// Applies the gradients in the home as the next step, or skips it when its loss or gradient is not
    /// finite. Errors if too many steps in a row were skipped.
    pub(crate) fn update(&mut self, totals: Totals, outcome: &Outcome) -> Result<()> {
        let run = self.run;
        let step = self.position.step;
        let at = At { step, rate: schedule::rate(&run.schedule, run.optimizer.rate, step, run.stop.steps) };
        self.position.last_rate = at.rate;
        if outcome.is_finite() {
            self.home.update(run, at, totals)?;
            self.position.skipped = 0;
        } else {
            self.position.skipped += 1;
            finite::check_skipped(self.position.skipped, step, run.optimizer.rate)?;
        }
        self.position.samples += u64::from(self.sequences());
        self.position.step += 1;
        self.position.tokens += totals.tokens;
        Ok(())
    }

    /// Scores the held-out text with the weights in the home.
    pub(crate) fn evaluate(&self) -> Result<HeldOut> {
        evaluate::held_out(&self.home.model, self.dataset, &self.run.evaluation, &self.run.batch)
    }

    /// Begins to write a checkpoint in the background. `toml` is the resolved run. Returns where it will lie.
    pub(crate) fn save(&mut self, snapshot: Snapshot, toml: &str) -> Result<PathBuf> {
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
            merged: Vec::new(),
        };
        let path = self.saver.begin(Saving { head, snapshot, keep: self.run.checkpoint.keep })?;
        self.position.saved_step = Some(self.position.step);
        Ok(path)
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
