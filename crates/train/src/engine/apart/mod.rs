//! Workers that train alone and meet now and then (EDiT, A-EDiT), in threads or emulated.
//!
//! What was agreed lies on the host; each worker has weights and moments of its own. The first
//! `sync.warmup_steps` steps are taken in step, by that engine. Then a step of the loop is a round, from one
//! meeting to the next. At a meeting it is decided how much each worker's change counts. The changes are
//! summed at the beginning of the next round, layer by layer, and handed out while the workers compute with
//! the layers before. When a worker is lost, so is what it learnt since the last meeting: the samples that it
//! took are given out again, and nothing that was brought or agreed on is lost. When to meet, and what
//! counts, is decided in `sync`. Reading order: here, `round`, `agreed`, `samples`, `state`.

mod agreed;
mod round;
mod samples;
mod state;
mod sums;

use super::fleet::Heard;
use super::in_step::{Gathered, InStep};
use super::{Busy, Engine, Fleet, Meeting, PaidDevice, Taken};
use crate::checkpoint::{Snapshot, Tensor};
use crate::crew::{Command, Content, Moments};
use crate::data::StepBatch;
use crate::guard::finite::{is_sane, nothing_finite};
use crate::home::Home;
use crate::training::Training;
use agreed::{Agreed, Bytes, Decided, Own};
use lingot_spec::event::{Exchange, WorkerShare};
use lingot_spec::problem::Result;
use lingot_spec::run::SyncSpec;
use lingot_sync::membership::Leave;
use lingot_sync::strategy::{self, Decision, Progress};
use lingot_sync::traffic;
use round::{Place, Round};
use samples::Samples;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use sums::Sums;

/// The engine of workers apart.
pub(crate) struct Apart {
    /// Takes the warm-up steps, and has the workers.
    in_step: InStep,
    sync: SyncSpec,
    agreed: Agreed,
    /// What was decided at the last meeting, while it is not summed.
    decided: Option<Decided>,
    samples: Samples,
    /// Whether slices are reserved for workers before a round.
    reserves: bool,
    /// Whether workers have trained alone already.
    is_begun: bool,
    /// Workers that have moments of their own, with their incarnation.
    holders: BTreeMap<usize, u64>,
    /// The moments that were seen last, by worker: of a checkpoint, or of the warm-up for worker 0.
    moments: BTreeMap<usize, Arc<Moments>>,
    /// What was brought before, by worker and layer: large vectors are expensive to allocate.
    memory: Vec<Vec<Vec<f32>>>,
}

/// What a step reads.
pub(crate) enum Work {
    /// In the warm-up: the batch of all.
    InStep(Arc<StepBatch>),
    /// After it: each worker's samples.
    Apart(Round),
}

/// What the workers bring.
pub(crate) enum Changes {
    /// In the warm-up: gradients.
    InStep(Gathered),
    /// After it: weights.
    Apart(Round),
}

impl Apart {
    /// Takes over from the in-step engine, and from what its checkpoint holds of workers apart.
    pub(crate) fn open(in_step: InStep, training: &Training<'_>, sync: Vec<Tensor>) -> Result<Apart> {
        let Training { run, home, position, .. } = training;
        let workers = in_step.fleet.len();
        let mut apart = Apart {
            in_step,
            sync: run.sync.clone(),
            agreed: Agreed::new(&home.model, workers)?,
            decided: None,
            samples: Samples::new(run, workers),
            reserves: false,
            is_begun: false,
            holders: BTreeMap::new(),
            moments: BTreeMap::new(),
            memory: Vec::new(),
        };
        apart.restore(home, position.samples, sync)?;
        Ok(apart)
    }

    /// Ends the warm-up: all begin from what the home has.
    fn begin(&mut self, home: &Home, first_sample: u64) -> Result<()> {
        self.samples.next = first_sample;
        self.agreed.take(&home.model)?;
        let [first, second] = home.optimizer.flats();
        self.moments = BTreeMap::from([(0, Arc::new([first.to_floats()?, second.to_floats()?]))]);
        self.is_begun = true;
        Ok(())
    }

    /// A worker's moments as they were seen last; those of the first worker that has some for one that is
    /// new.
    fn moments_for(&self, worker: usize) -> Option<Arc<Moments>> {
        self.moments.get(&worker).or_else(|| self.moments.values().next()).cloned()
    }

    /// The workers that take part and have no moments of their own.
    fn newcomers(&self) -> Vec<usize> {
        let fleet = &self.in_step.fleet;
        let mut active = fleet.active();
        active.retain(|worker| self.holders.get(worker) != Some(&fleet.incarnation(*worker)));
        active
    }

    /// Asks all workers that have moments of their own for them. A worker that does not report leaves.
    fn collect_moments(&mut self, step: u64) -> Result<()> {
        let newcomers = self.newcomers();
        let mut owing = self.in_step.fleet.active();
        owing.retain(|worker| !newcomers.contains(worker));
        owing.iter().for_each(|&worker| self.in_step.fleet.command(worker, Command::BringMoments));
        while !owing.is_empty() {
            let awaited: Vec<_> = owing.iter().map(|&worker| self.awaited(worker)).collect();
            let (worker, leave) = match self.in_step.fleet.listen(&awaited, step)? {
                Heard::Silent { worker, leave } => (worker, leave),
                Heard::Nothing => continue,
                Heard::Report(report) => match report.content {
                    Content::Moments(moments) => {
                        owing.retain(|&worker| worker != report.worker);
                        self.moments.insert(report.worker, Arc::new(moments));
                        continue;
                    }
                    Content::Failed(problem) | Content::Absent(problem) => {
                        (report.worker, Leave::Failed { step, problem })
                    }
                    _ => continue,
                },
            };
            owing.retain(|&other| other != worker);
            self.holders.remove(&worker);
            self.in_step.fleet.leave(worker, leave, None)?;
        }
        Ok(())
    }

    /// Sums the first groups of what was decided, up to `groups` of them.
    fn sum_until(&mut self, groups: usize) {
        let Apart { agreed, decided: Some(decided), sync, .. } = self else { return };
        while decided.summed() < groups {
            agreed.sum_next(decided, sync);
        }
    }

    fn sum_all(&mut self) {
        self.sum_until(self.agreed.groups());
    }

    /// Brings what was agreed into the home, which is to be scored.
    fn bring_home(&mut self, training: &mut Training<'_>) -> Result<()> {
        self.sum_all();
        if let Some(decided) = self.decided.take() {
            self.memory = decided.into_memory();
            training.home.model.overwrite(0, &self.agreed.weights)?;
            training.home.model.set_buffers(&self.agreed.state)?;
        }
        Ok(())
    }

    /// Decides how much the changes count. None where no worker took a step.
    fn meet(&mut self, training: &Training<'_>, mut round: Round) -> Result<Option<Taken>> {
        let Round { places, .. } = &mut round;
        // What is left over of reserved slices is for the next round.
        places.values_mut().for_each(|place| self.samples.give_back(place.reserved.drain(..)));
        let mut sums = Sums::default();
        places.values_mut().for_each(|place| sums.merge(std::mem::take(&mut place.sums)));
        if sums.steps == 0 {
            return Ok(None);
        }
        if sums.finite == 0 {
            return Err(nothing_finite(round.step, training.run.optimizer.rate));
        }
        let workers: Vec<usize> = places.keys().copied().collect();
        let own: Vec<Own> = places.values_mut().map(|place| std::mem::take(&mut place.own)).collect();
        let (decided, verdicts) = self.agreed.decide(&workers, own, &self.sync.penalty);
        self.decided = Some(decided);
        let bytes = self.bytes(&round.places);
        let (shares, busy) = self.shares(&round.places, &verdicts.weights);
        let exchange = Exchange {
            step: 0,
            reason: round.reason,
            bytes: bytes.counted,
            predicted_bytes: bytes.predicted,
            workers: shares,
            pieces: Vec::new(),
        };
        let peak_memory_bytes = self.in_step.fleet.peak_memory_bytes();
        let meeting = Meeting { exchange, outliers: verdicts.outliers, busy, peak_memory_bytes };
        Ok(Some(Taken { outcome: sums.outcome(), totals: sums.totals, meeting: Some(meeting) }))
    }

    /// What a meeting moves. Emulated workers stand for machines that hand each other their numbers; devices
    /// take and bring them by way of the host.
    fn bytes(&mut self, places: &BTreeMap<usize, Place>) -> Bytes {
        if self.in_step.fleet.is_emulated() {
            self.sum_all();
            if let Some(decided) = &self.decided {
                return self.agreed.take_bytes(decided);
            }
        }
        let newcomers = places.values().filter(|place| place.is_new).count();
        let state: usize = self.agreed.state.iter().map(Vec::len).sum();
        let numbers = [self.agreed.weights.len(), state];
        Bytes {
            counted: places.values().map(|place| place.bytes).sum(),
            predicted: traffic::hub_round_bytes([places.len(), newcomers], numbers),
        }
    }

    /// What each worker did in a round; those that took no part did nothing.
    fn shares(&self, places: &BTreeMap<usize, Place>, weights: &[f64]) -> (Vec<WorkerShare>, Vec<Busy>) {
        let fleet = &self.in_step.fleet;
        let wall = Duration::from_secs_f64(fleet.crew().elapsed_s());
        let mut shares = vec![WorkerShare::default(); fleet.len()];
        let mut busy = vec![Busy::default(); if fleet.is_emulated() { 0 } else { fleet.len() }];
        for ((&worker, place), &weight) in places.iter().zip(weights) {
            let Busy { compute, exchange, .. } = place.busy;
            shares[worker] = WorkerShare {
                own_steps: place.steps,
                busy_s: compute.as_secs_f64(),
                exchange_s: exchange.as_secs_f64(),
                waiting_s: wall.saturating_sub(compute + exchange).as_secs_f64(),
                weight,
            };
            if let Some(busy) = busy.get_mut(worker) {
                *busy = place.busy;
            }
        }
        (shares, busy)
    }
}

impl Engine for Apart {
    type Batch = Work;
    type Changes = Changes;

    fn fetch(&mut self, training: &mut Training<'_>) -> Result<Work> {
        let step = training.position.step;
        let at = Progress { step, ..Progress::default() };
        if let Decision::InStep(_) = strategy::next(&self.sync, &at) {
            return Ok(Work::InStep(self.in_step.fetch(training)?));
        }
        self.in_step.fleet.boundary(step)?;
        if !self.is_begun {
            self.begin(&training.home, training.position.samples)?;
        }
        let newcomers = self.newcomers();
        if !newcomers.is_empty() && newcomers.len() < self.in_step.fleet.active().len() {
            self.collect_moments(step)?; // Those that are here have newer ones than the last checkpoint.
        }
        Ok(Work::Apart(self.new_round(&training.run.sync, step, &newcomers)))
    }

    fn differentiate(&mut self, training: &mut Training<'_>, work: Work) -> Result<Changes> {
        match work {
            Work::InStep(batch) => Ok(Changes::InStep(self.in_step.differentiate(training, batch)?)),
            Work::Apart(mut round) => {
                let done = self.train_alone(training, &mut round);
                match done.and_then(|()| self.bring_together(training, &mut round)) {
                    Ok(()) => Ok(Changes::Apart(round)),
                    Err(error) => {
                        self.abandon(round);
                        Err(error)
                    }
                }
            }
        }
    }

    fn agree(&mut self, training: &mut Training<'_>, changes: Changes) -> Result<Option<Taken>> {
        match changes {
            Changes::InStep(gathered) => self.in_step.agree(training, gathered),
            Changes::Apart(round) => self.meet(training, round),
        }
    }

    /// The outer step is taken when the weights are next needed: group by group as the next round begins, or
    /// at once for an evaluation or a snapshot.
    fn update(&mut self, training: &mut Training<'_>, taken: &Taken) -> Result<()> {
        if !self.is_begun {
            return self.in_step.update(training, taken);
        }
        let loss = taken.outcome.losses.main;
        if taken.outcome.is_finite() && is_sane(loss, training.run.model.vocabulary) {
            training.note_sound(training.position.step)?;
        }
        training.position.samples = self.samples.trained();
        training.position.step = training.position.samples / u64::from(training.run.batch.sequences);
        training.position.tokens += taken.totals.tokens;
        Ok(())
    }

    fn settle(&mut self, training: &mut Training<'_>) -> Result<()> {
        self.bring_home(training)
    }

    fn collect(&mut self, training: &mut Training<'_>) -> Result<()> {
        if self.is_begun { self.collect_moments(training.position.step) } else { Ok(()) }
    }

    fn snapshot(&mut self, training: &Training<'_>) -> Result<Snapshot> {
        if self.is_begun { self.store(&training.home) } else { self.in_step.snapshot(training) }
    }

    fn devices(&self, training: &Training<'_>) -> Vec<PaidDevice> {
        self.in_step.devices(training)
    }

    fn fleet(&mut self) -> Option<&mut Fleet> {
        self.in_step.fleet()
    }
}
