//! A round: each worker's own steps from one meeting to the next, and what it brings.

use super::Apart;
use super::agreed::Own;
use super::sums::Sums;
use crate::crew::{Adoption, Command, Content, Moved, Report, Stepped};
use crate::data::StepBatch;
use crate::engine::Busy;
use crate::engine::fleet::{Awaited, Heard};
use crate::optimizer::At;
use crate::training::Training;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::{Strategy, SyncSpec};
use lingot_sync::membership::Leave;
use lingot_sync::strategy::{self, Decision, Progress};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

/// A round under way.
pub(crate) struct Round {
    /// Steps of the run before it.
    pub(super) step: u64,
    /// The workers that take part.
    pub(super) places: BTreeMap<usize, Place>,
    /// A-EDiT: periods that it was prolonged by.
    prolonged: u64,
    /// A sentence: why the workers meet.
    pub(super) reason: String,
}

/// A worker between two meetings.
#[derive(Default)]
pub(super) struct Place {
    pub(super) steps: u64,
    /// By its clock, since the round began, when its last step was done.
    elapsed_s: f64,
    pub(super) busy: Busy,
    /// Moved between host and device.
    pub(super) bytes: u64,
    /// Whether it is given moments.
    pub(super) is_new: bool,
    /// Whether it owes a report.
    is_awaited: bool,
    /// The slices that it took, by their first samples.
    taken: Vec<u64>,
    /// Slices that only it may take.
    pub(super) reserved: VecDeque<u64>,
    pub(super) sums: Sums,
    pub(super) own: Own,
}

impl Place {
    fn count(&mut self, moved: Moved) {
        self.busy.exchange += moved.time;
        self.bytes += moved.bytes;
    }
}

impl Round {
    fn workers(&self) -> Vec<usize> {
        self.places.keys().copied().collect()
    }

    fn is_awaiting(&self) -> bool {
        self.places.values().any(|place| place.is_awaited)
    }

    fn is_enough(&self, sync: &SyncSpec) -> bool {
        let own_steps: Vec<u64> = self.places.values().map(|place| place.steps).collect();
        strategy::enough_steps(sync, &own_steps).is_ok()
    }
}

impl Apart {
    /// Begins a round of the workers that take part; `newcomers` among them have no moments yet. With equal
    /// steps every worker's slices are fixed before the first of them is read, so that what a worker reads
    /// does not depend on its speed. Where reports always come in the same order, it does not in any case.
    pub(super) fn new_round(&mut self, sync: &SyncSpec, step: u64, newcomers: &[usize]) -> Round {
        let fleet = &self.in_step.fleet;
        let place = |worker| (worker, Place { is_new: newcomers.contains(&worker), ..Place::default() });
        let mut places: BTreeMap<usize, Place> = fleet.active().into_iter().map(place).collect();
        self.reserves = sync.strategy == Strategy::Edit && !fleet.crew().is_reproducible();
        if self.reserves {
            for _ in 0..sync.every {
                places.values_mut().for_each(|place| place.reserved.extend(self.samples.take()));
            }
        }
        Round { step, places, prolonged: 0, reason: String::new() }
    }

    /// Lets all workers train alone until it is time to meet, or they are lost.
    pub(super) fn train_alone(&mut self, training: &mut Training<'_>, round: &mut Round) -> Result<()> {
        self.in_step.fleet.restart_clock();
        let takers = self.announce(round);
        for worker in round.workers() {
            self.go_on(training, round, worker)?;
        }
        self.hand_over(training, &takers)?;
        self.in_step.fleet.restart_silence();
        loop {
            while round.is_awaiting() {
                self.listen(training, round)?;
            }
            if round.is_enough(&training.run.sync) || self.is_over(training, round) {
                return Ok(());
            }
            round.prolonged += 1;
            for worker in round.workers() {
                self.ask(round, worker, Command::Wait);
            }
        }
    }

    /// Lets all workers that are left bring their weights.
    pub(super) fn bring_together(&mut self, training: &mut Training<'_>, round: &mut Round) -> Result<()> {
        for worker in round.workers() {
            let memory = self.memory.pop().unwrap_or_default();
            self.ask(round, worker, Command::BringWeights(memory));
        }
        while round.is_awaiting() {
            self.listen(training, round)?;
        }
        Ok(())
    }

    /// Lets all take what was agreed, and newcomers moments: their own of before, or those of a worker that
    /// has some. Returns where the weights of the layers are to be sent.
    fn announce(&mut self, round: &Round) -> Vec<Sender<Arc<Vec<f32>>>> {
        let state = Arc::new(self.agreed.state.clone());
        let mut takers = Vec::new();
        for (&worker, place) in &round.places {
            let (taker, layers) = channel();
            takers.push(taker);
            let moments = place.is_new.then(|| self.moments_for(worker)).flatten();
            let fleet = &mut self.in_step.fleet;
            fleet.command(worker, Command::Adopt(Adoption { state: state.clone(), moments, layers }));
            self.holders.insert(worker, fleet.incarnation(worker));
        }
        takers
    }

    /// Sends the layers in the order of the forward pass, each as soon as it is summed.
    fn hand_over(&mut self, training: &mut Training<'_>, takers: &[Sender<Arc<Vec<f32>>>]) -> Result<()> {
        for group in 0..self.agreed.groups() {
            self.sum_until(group + 1);
            let weights = Arc::new(self.agreed.group(group).to_vec());
            // Where a worker has failed, its failure is among the reports.
            takers.iter().for_each(|taker| drop(taker.send(weights.clone())));
        }
        self.bring_home(training)
    }

    /// Gives a worker a command that it reports on.
    fn ask(&mut self, round: &mut Round, worker: usize, command: Command) {
        if let Some(place) = round.places.get_mut(&worker) {
            place.is_awaited = true;
            self.in_step.fleet.command(worker, command);
        }
    }

    /// Lets a worker take another step, unless it is time to meet.
    fn go_on(&mut self, training: &mut Training<'_>, round: &mut Round, worker: usize) -> Result<()> {
        let run = training.run;
        let is_cut_short = self.is_cut_short(training);
        let fleet = &self.in_step.fleet;
        let Some(place) = round.places.get_mut(&worker) else { return Ok(()) };
        if is_cut_short {
            round.reason = "asked to stop".into();
            return Ok(());
        }
        let progress = Progress {
            step: round.step,
            own_steps: place.steps,
            elapsed_s: place.elapsed_s,
            next_step_s: fleet.crew().next_step_s(worker),
            prolonged: round.prolonged,
        };
        if let Decision::Meet(meet) = strategy::next(&run.sync, &progress) {
            round.reason = format!("{}: {meet}", fleet.name(worker));
            return Ok(());
        }
        let slice = if self.reserves { place.reserved.pop_front() } else { self.samples.take() };
        let Some(first) = slice else {
            round.reason = format!("all {} steps of the run are done", run.stop.steps);
            return Ok(());
        };
        place.taken.push(first);
        let step = round.step + place.steps;
        let rate = training.rate(step);
        training.position.last_rate = rate;
        let batch = StepBatch::read(run, training.dataset, first, self.samples.share)?;
        self.ask(round, worker, Command::Step { at: At { step, rate }, batch });
        Ok(())
    }

    /// Takes the next report, or lets a worker leave that has been silent for too long.
    fn listen(&mut self, training: &mut Training<'_>, round: &mut Round) -> Result<()> {
        let owing = round.places.iter().filter(|(_, place)| place.is_awaited);
        let awaited: Vec<Awaited> = owing.map(|(&worker, _)| self.awaited(worker)).collect();
        match self.in_step.fleet.listen(&awaited, round.step)? {
            Heard::Report(report) => self.hear(training, round, report),
            Heard::Silent { worker, leave } => self.lose(round, worker, leave),
            Heard::Nothing => Ok(()),
        }
    }

    fn hear(&mut self, training: &mut Training<'_>, round: &mut Round, report: Report) -> Result<()> {
        let (worker, step) = (report.worker, round.step);
        let Some(place) = round.places.get_mut(&worker) else {
            return self.in_step.fleet.hear_between(report, step);
        };
        match report.content {
            Content::Stepped(Stepped { outcome, totals, compute, moved, peak_memory_bytes }) => {
                place.is_awaited = false;
                place.steps += 1;
                place.elapsed_s = report.at_s;
                place.busy.compute += compute;
                place.busy.tokens += totals.tokens;
                place.count(moved);
                place.sums.add(&outcome, totals);
                self.in_step.fleet.note_peak_memory(worker, peak_memory_bytes);
                self.go_on(training, round, worker)
            }
            Content::Waited => {
                place.is_awaited = false;
                self.go_on(training, round, worker)
            }
            Content::Layer(weights) => {
                let norm = self.agreed.change_norm(place.own.weights.len(), &weights);
                place.own.weights.push(weights);
                place.own.norms.push(norm);
                if norm.is_finite() {
                    return Ok(());
                }
                let problem = Problem::new(
                    "the weights that it brings are not finite",
                    "check the device: `lingot align` compares it with another",
                );
                self.lose(round, worker, Leave::Failed { step, problem })
            }
            Content::Brought { state, moved } => {
                place.is_awaited = false;
                place.own.state = state;
                place.count(moved);
                Ok(())
            }
            Content::Failed(problem) | Content::Absent(problem) => {
                self.lose(round, worker, Leave::Failed { step, problem })
            }
            Content::Ready | Content::Micro(_) | Content::Piece(_) | Content::Moments(_) => Ok(()),
        }
    }

    /// Lets a worker leave before the meeting: others read what it has read.
    fn lose(&mut self, round: &mut Round, worker: usize, leave: Leave) -> Result<()> {
        self.holders.remove(&worker);
        let Some(place) = round.places.remove(&worker) else { return Ok(()) };
        let (steps, seconds) = (place.taken.len(), place.busy.compute.as_secs_f64());
        self.samples.give_back(place.taken.into_iter().chain(place.reserved));
        let again = format!("{steps} steps that it took alone, {seconds:.3} s, are taken again");
        self.in_step.fleet.leave(worker, leave, Some(again))
    }

    /// Takes back all samples of a round that never meets: what was agreed on before it is what is left.
    pub(super) fn abandon(&mut self, round: Round) {
        for place in round.places.into_values() {
            self.samples.give_back(place.taken.into_iter().chain(place.reserved));
        }
    }

    /// Whether no worker can take another step.
    fn is_over(&self, training: &Training<'_>, round: &Round) -> bool {
        self.is_cut_short(training) || !self.samples.has_more() || round.places.is_empty()
    }

    /// Whether the user wants the round to end now. A round that is cut short gives other bits than a whole
    /// one, so it is finished where runs are reproducible.
    fn is_cut_short(&self, training: &Training<'_>) -> bool {
        training.is_interrupted() && !self.in_step.fleet.crew().is_reproducible()
    }

    /// A worker that owes a report, with the time that its steps take.
    pub(super) fn awaited(&self, worker: usize) -> Awaited {
        let next_step_s = self.in_step.fleet.crew().next_step_s(worker);
        Awaited { worker, expected_s: (next_step_s > 0.0).then_some(next_step_s) }
    }
}
