//! Devices that train alone and meet now and then (EDiT, A-EDiT), each in its own thread and by the real clock.
//!
//! What was agreed lies on the host, in the main loop's `Worker`; each device has weights and moments of its own. A round
//! goes from one meeting to the next. At a meeting it is decided what each device's changes count. They are summed at the
//! beginning of the next round, layer by layer, and handed out while the devices compute with the layers before. When a
//! device is lost, so is what it learnt since the meeting before: the samples that it took are given out again, and
//! nothing that was brought or agreed on is lost. Who decides when to meet, and what counts, is `sync`, as for emulated
//! workers.

mod kept;

use super::Fleet;
use super::member::{Agreement, Answer, Moments, Moved, News, Order};
use crate::ledger::Busy;
use crate::local::{Agreed, Decided, Own, Round, Sums, nothing_finite};
use crate::schedule;
use crate::worker::{StepBatch, Worker, totals};
use kept::Samples;
use lingot_spec::Result;
use lingot_spec::run::Strategy;
use lingot_sync::exchange::Exchange;
use lingot_sync::membership::{Leave, Standing};
use lingot_sync::shares::Speed;
use lingot_sync::strategy::{self, Decision, Progress};
use lingot_sync::traffic;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// What the devices of a run that train alone agreed on last, and who has it.
pub(crate) struct Apart {
    agreed: Agreed,
    /// What was decided at the last meeting, where it is not summed yet.
    decided: Option<Decided>,
    /// Memory of what was brought before, by device and layer: large vectors are dear to make.
    room: Vec<Vec<Vec<f32>>>,
    exchange: Exchange,
    samples: Samples,
    /// Sequences of one step of one device.
    share: u32,
    /// Devices trained alone already. Before that all are in step.
    is_begun: bool,
    /// Workers that have moments of their own, and in which life.
    holders: BTreeMap<usize, u64>,
    /// The moments that were seen last, by worker: of a checkpoint, or of the steps in step.
    moments: BTreeMap<usize, Arc<Moments>>,
    speeds: BTreeMap<usize, Speed>,
}

/// A device between two meetings.
#[derive(Default)]
struct Place {
    steps: u64,
    /// Since the round began, when its last step was done.
    elapsed_s: f64,
    busy: Busy,
    bytes: u64,
    /// It was given moments.
    is_new: bool,
    /// What it is waited for, since when.
    asked: Option<Instant>,
    has_met: bool,
    /// The portions it took.
    taken: Vec<u64>,
    /// Those that are kept for it: with equal steps, who reads what does not depend on who is faster.
    kept: VecDeque<u64>,
    sums: Sums,
    own: Own,
}

/// A round under way.
struct Turns<'a, 'b> {
    lead: &'a mut Worker<'b>,
    interrupted: &'a AtomicBool,
    begin: Instant,
    step: u64,
    places: BTreeMap<usize, Place>,
    prolonged: u64,
    reason: String,
}

impl Fleet {
    /// Every device's own steps, then the meeting. Afterwards the lead holds what was agreed, and has come so far. None
    /// where nobody took a step.
    pub(crate) fn round(
        &mut self,
        apart: &mut Apart,
        lead: &mut Worker<'_>,
        interrupted: &AtomicBool,
    ) -> Result<Option<(Round, Vec<Busy>)>> {
        self.boundary(lead.step)?;
        if !apart.is_begun {
            apart.begin(lead)?;
        }
        let newcomers = self.newcomers(apart);
        self.collect_from_others(apart, &newcomers, lead.step)?;
        let begin = Instant::now();
        let step = lead.step;
        let place = |worker| (worker, Place { is_new: newcomers.contains(&worker), ..Place::default() });
        let places = self.membership.active().into_iter().map(place).collect();
        let mut turns = Turns { lead, interrupted, begin, step, places, prolonged: 0, reason: String::new() };
        turns.keep_portions(apart);
        self.train_alone(apart, &mut turns)?;
        self.bring_together(apart, &mut turns)?;
        self.conclude(apart, turns)
    }

    /// Those who take part and have no moments of their own.
    fn newcomers(&self, apart: &Apart) -> Vec<usize> {
        let mut active = self.membership.active();
        active.retain(|worker| apart.holders.get(worker) != Some(&self.seats[*worker].life));
        active
    }

    /// Newcomers get moments of those who are here: they have newer ones than the last checkpoint.
    fn collect_from_others(&mut self, apart: &mut Apart, newcomers: &[usize], step: u64) -> Result<()> {
        if newcomers.is_empty() || newcomers.len() == self.membership.active().len() {
            return Ok(());
        }
        self.collect_moments(apart, step)
    }

    /// All take what was agreed, and newcomers moments: their own of before, or those of one who has some. Where the
    /// weights of the layers are to be sent.
    fn announce(&mut self, apart: &mut Apart, turns: &Turns<'_, '_>) -> Vec<Sender<Arc<Vec<f32>>>> {
        let state = Arc::new(apart.agreed.state.clone());
        let mut takers = Vec::new();
        for (&worker, place) in &turns.places {
            let (taker, layers) = channel();
            takers.push(taker);
            let moments = place.is_new.then(|| apart.moments_for(worker)).flatten();
            let agreement = Agreement { state: state.clone(), moments, layers };
            let _ = self.seats[worker].orders.send(Order::Adopt(agreement));
            apart.holders.insert(worker, self.seats[worker].life);
        }
        takers
    }

    /// Until all have met, or are lost.
    fn train_alone(&mut self, apart: &mut Apart, turns: &mut Turns<'_, '_>) -> Result<()> {
        let takers = self.announce(apart, turns);
        let workers: Vec<usize> = turns.places.keys().copied().collect();
        for worker in workers {
            self.go_on(apart, turns, worker)?;
        }
        apart.hand_over(turns.lead, &takers)?;
        turns.places.values_mut().for_each(|place| place.asked = place.asked.map(|_| Instant::now()));
        loop {
            while turns.places.values().any(|place| place.asked.is_some()) {
                self.listen(apart, turns)?;
            }
            let own_steps: Vec<u64> = turns.places.values().map(|place| place.steps).collect();
            let is_enough = strategy::enough_steps(&turns.lead.run.sync, &own_steps).is_ok();
            if is_enough || turns.is_over(apart) {
                return Ok(());
            }
            turns.prolonged += 1;
            let workers: Vec<usize> = turns.places.keys().copied().collect();
            for worker in workers {
                self.go_on(apart, turns, worker)?;
            }
        }
    }

    /// A device takes another step, or goes to the meeting.
    fn go_on(&mut self, apart: &mut Apart, turns: &mut Turns<'_, '_>, worker: usize) -> Result<()> {
        let run = turns.lead.run;
        let Some(place) = turns.places.get_mut(&worker) else { return Ok(()) };
        place.has_met = true;
        if turns.interrupted.load(Ordering::Relaxed) {
            turns.reason = "asked to stop".into();
            return Ok(());
        }
        let progress = Progress {
            step: turns.step,
            own_steps: place.steps,
            elapsed_s: place.elapsed_s,
            next_step_s: apart.speeds.get(&worker).and_then(Speed::per_s).map_or(0.0, |speed| 1.0 / speed),
            prolonged: turns.prolonged,
        };
        if let Decision::Meet(meet) = strategy::next(&run.sync, &progress) {
            turns.reason = format!("{}: {meet}", self.seats[worker].name);
            return Ok(());
        }
        let equal_steps = run.sync.strategy == Strategy::Edit;
        let portion = if equal_steps { place.kept.pop_front() } else { apart.samples.take() };
        let Some(first) = portion else {
            turns.reason = format!("all {} steps of the run are done", run.stop.steps);
            return Ok(());
        };
        place.has_met = false;
        place.taken.push(first);
        place.asked = Some(Instant::now());
        let micros = turns.lead.micros(first, apart.share)?;
        let step = turns.step + place.steps;
        let rate = schedule::rate(&run.schedule, run.optimizer.rate, step, run.stop.steps);
        turns.lead.last_rate = rate;
        let batch = StepBatch { totals: totals(run, &micros), micros };
        let _ = self.seats[worker].orders.send(Order::Step { step, rate, batch });
        Ok(())
    }

    /// The next answer, or whoever has been silent for too long.
    fn listen(&mut self, apart: &mut Apart, turns: &mut Turns<'_, '_>) -> Result<()> {
        let mut first: Option<(usize, f64, f64)> = None; // Whose patience ends first: silent, and allowed.
        for (&worker, place) in &turns.places {
            let Some(asked) = place.asked else { continue };
            let (silent_s, allowed_s) = (asked.elapsed().as_secs_f64(), self.patience_with(apart, worker));
            if first.is_none_or(|(_, silent, allowed)| allowed_s - silent_s < allowed - silent) {
                first = Some((worker, silent_s, allowed_s));
            }
        }
        let Some((worker, silent_s, allowed_s)) = first else { return Ok(()) };
        if silent_s > allowed_s {
            let leave = Leave::Hung { step: turns.step, silent_s, deadline_s: allowed_s };
            return self.lose(apart, turns, worker, leave);
        }
        let left = Duration::from_secs_f64((allowed_s - silent_s).clamp(1e-3, 3600.0));
        match self.answers.recv_timeout(left) {
            Ok(answer) => self.hear_apart(answer, apart, turns),
            Err(_) => Ok(()),
        }
    }

    /// A step of its own takes as many times longer as it has more sequences than a micro-batch.
    fn patience_with(&self, apart: &Apart, worker: usize) -> f64 {
        self.allowed_s(apart.speeds.get(&worker).and_then(Speed::per_s))
    }

    fn hear_apart(&mut self, answer: Answer, apart: &mut Apart, turns: &mut Turns<'_, '_>) -> Result<()> {
        let worker = answer.worker;
        let is_active = self.membership.standing(worker) == Some(&Standing::Active);
        let is_current = is_active && self.seats[worker].life == answer.life;
        let Some(place) = turns.places.get_mut(&worker).filter(|_| is_current) else {
            return self.hear_between(answer, turns.step);
        };
        match answer.news {
            News::Stepped { outcome, totals, compute, moved, peak_memory_bytes } => {
                place.asked = None;
                place.steps += 1;
                place.elapsed_s = turns.begin.elapsed().as_secs_f64();
                place.busy.compute += compute;
                place.busy.tokens += totals.tokens;
                place.count(moved);
                place.sums.add(&outcome, totals);
                apart.speeds.entry(worker).or_default().observe(1, compute.as_secs_f64());
                let peak = &mut self.seats[worker].peak_memory_bytes;
                *peak = (*peak).max(peak_memory_bytes);
                self.go_on(apart, turns, worker)
            }
            News::Layer(weights) => {
                let norm = apart.agreed.change_norm(place.own.weights.len(), &weights);
                place.own.weights.push(weights);
                place.own.norms.push(norm);
                if norm.is_finite() {
                    return Ok(());
                }
                let reason = "the weights that it brings are not finite".into();
                self.lose(apart, turns, worker, Leave::Failed { step: turns.step, reason })
            }
            News::Brought { state, moved } => {
                place.asked = None;
                place.own.state = state;
                place.count(moved);
                Ok(())
            }
            News::Kept(moments) => {
                place.asked = None;
                apart.moments.insert(worker, Arc::new(moments));
                Ok(())
            }
            News::Failed(error) | News::Absent(error) => {
                self.lose(apart, turns, worker, Leave::Failed { step: turns.step, reason: error.problem })
            }
            News::Ready | News::Micro(_) | News::Piece(_) => Ok(()),
        }
    }

    /// A device leaves before the meeting: others read what it has read.
    fn lose(
        &mut self,
        apart: &mut Apart,
        turns: &mut Turns<'_, '_>,
        worker: usize,
        leave: Leave,
    ) -> Result<()> {
        apart.holders.remove(&worker);
        let Some(place) = turns.places.remove(&worker) else { return Ok(()) };
        let steps = place.taken.len();
        apart.samples.give_back(place.taken.into_iter().chain(place.kept));
        let left = self.leave(worker, leave);
        if let Some(change) = self.changes.last_mut() {
            let seconds = place.busy.compute.as_secs_f64();
            change.reason += &format!("; {steps} steps that it took alone, {seconds:.3} s, are taken again");
        }
        left.map(drop)
    }

    /// All who are left bring their weights.
    fn bring_together(&mut self, apart: &mut Apart, turns: &mut Turns<'_, '_>) -> Result<()> {
        for (&worker, place) in &mut turns.places {
            place.asked = Some(Instant::now());
            let _ = self.seats[worker].orders.send(Order::Meet(apart.room.pop().unwrap_or_default()));
        }
        while turns.places.values().any(|place| place.asked.is_some()) {
            self.listen(apart, turns)?;
        }
        Ok(())
    }

    /// The meeting itself; then all go on from what was agreed.
    fn conclude(&mut self, apart: &mut Apart, turns: Turns<'_, '_>) -> Result<Option<(Round, Vec<Busy>)>> {
        let Turns { lead, begin, step, mut places, reason, .. } = turns;
        // What is left over of the portions that were kept is for the next round.
        places.values_mut().for_each(|place| apart.samples.give_back(place.kept.drain(..)));
        let workers: Vec<usize> = places.keys().copied().collect();
        let own: Vec<Own> = places.values_mut().map(|place| std::mem::take(&mut place.own)).collect();
        let mut sums = Sums::default();
        places.values_mut().for_each(|place| sums.merge(std::mem::take(&mut place.sums)));
        if sums.turns == 0 {
            return Ok(None);
        }
        if sums.finite == 0 {
            return Err(nothing_finite(step, lead.run.optimizer.rate));
        }
        let penalty = &lead.run.sync.penalty;
        let (decided, minutes) = apart.agreed.decide(&workers, own, penalty, &mut apart.exchange);
        apart.decided = Some(decided);
        lead.model.set_buffers(&apart.agreed.state)?;
        let newcomers = places.values().filter(|place| place.is_new).count();
        let state: usize = apart.agreed.state.iter().map(Vec::len).sum();
        let numbers = [apart.agreed.weights.len(), state];
        let predicted_bytes = traffic::hub_round_bytes([workers.len(), newcomers], numbers);
        lead.step = apart.samples.trained() / u64::from(lead.run.batch.sequences);
        lead.tokens += sums.totals.tokens;
        let batch = StepBatch { micros: Vec::new(), totals: sums.totals };
        let mut round = Round {
            outcome: sums.outcome(),
            batch,
            reason,
            own_steps: vec![0; self.seats.len()],
            busy_s: vec![0.0; self.seats.len()],
            exchange_s: vec![0.0; self.seats.len()],
            waiting_s: vec![0.0; self.seats.len()],
            bytes: places.values().map(|place| place.bytes).sum(),
            predicted_bytes,
            anomalies: minutes.anomalies,
            weights: vec![0.0; self.seats.len()],
            norms: minutes.norms,
        };
        let wall = begin.elapsed();
        let mut busy = vec![Busy::default(); self.seats.len()];
        for ((&worker, place), weight) in places.iter().zip(minutes.weights) {
            let waiting = wall.saturating_sub(place.busy.compute + place.busy.exchange);
            round.own_steps[worker] = place.steps;
            round.busy_s[worker] = place.busy.compute.as_secs_f64();
            round.exchange_s[worker] = place.busy.exchange.as_secs_f64();
            round.waiting_s[worker] = waiting.as_secs_f64();
            round.weights[worker] = weight;
            busy[worker] = place.busy;
        }
        Ok(Some((round, busy)))
    }

    /// Asks all who hold some for their moments. Who does not answer leaves.
    fn collect_moments(&mut self, apart: &mut Apart, step: u64) -> Result<()> {
        let mut awaited: BTreeMap<usize, Instant> = BTreeMap::new();
        for worker in self.membership.active() {
            if apart.holders.get(&worker) == Some(&self.seats[worker].life) {
                let _ = self.seats[worker].orders.send(Order::Keep);
                awaited.insert(worker, Instant::now());
            }
        }
        while let Some((&worker, &asked)) = awaited.first_key_value() {
            let (silent_s, deadline_s) = (asked.elapsed().as_secs_f64(), self.patience_with(apart, worker));
            let left = Duration::from_secs_f64((deadline_s - silent_s).clamp(1e-3, 3600.0));
            let leave = match self.answers.recv_timeout(left) {
                Ok(Answer { worker, life, news: News::Kept(moments) }) if life == self.seats[worker].life => {
                    awaited.remove(&worker);
                    apart.moments.insert(worker, Arc::new(moments));
                    continue;
                }
                Ok(Answer { worker, life, news: News::Failed(error) }) if awaited.contains_key(&worker) => {
                    if life != self.seats[worker].life {
                        continue;
                    }
                    (worker, Leave::Failed { step, reason: error.problem })
                }
                Ok(answer) => {
                    self.hear_between(answer, step)?;
                    continue;
                }
                Err(_) if silent_s <= deadline_s => continue,
                Err(_) => (worker, Leave::Hung { step, silent_s, deadline_s }),
            };
            awaited.remove(&leave.0);
            apart.holders.remove(&leave.0);
            self.leave(leave.0, leave.1)?;
        }
        Ok(())
    }
}

impl Place {
    fn count(&mut self, moved: Moved) {
        self.busy.exchange += moved.time;
        self.bytes += moved.bytes;
    }
}

impl Turns<'_, '_> {
    /// With equal steps every device's portions are fixed before the first of them is read.
    fn keep_portions(&mut self, apart: &mut Apart) {
        let sync = &self.lead.run.sync;
        if sync.strategy != Strategy::Edit {
            return;
        }
        for _ in 0..sync.every {
            for place in self.places.values_mut() {
                place.kept.extend(apart.samples.take());
            }
        }
    }

    /// Nobody can take another step.
    fn is_over(&self, apart: &Apart) -> bool {
        self.interrupted.load(Ordering::Relaxed) || !apart.samples.has_more() || self.places.is_empty()
    }
}
