//! One step of a fleet: divide the batch, wait for the pieces, redo what is lost, add up.

use super::member::{Answer, Computed, News, Order, Part, Weights};
use super::{Fleet, Lap, PATIENCE};
use crate::ledger::Busy;
use crate::worker::{StepBatch, Worker};
use lingot_model::{Counts, Model};
use lingot_spec::event::{Exchange, Piece, WorkerShare};
use lingot_spec::problem::{Problem, Result};
use lingot_sync::membership::{Leave, Standing, deadline_s, overdue};
use lingot_sync::shares::{self, Capacity, split};
use lingot_sync::{sum, traffic};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// Shares are moved when that makes a step shorter by more than this share of it.
const GAIN: f64 = 0.01;

/// What is to be done with some micro-batches.
struct Job {
    weights: Arc<Weights>,
    step: u64,
    batch: Arc<StepBatch>,
}

/// What a step of a fleet was.
pub(crate) struct Gathered {
    pub(crate) exchange: Exchange,
    /// By worker.
    pub(crate) busy: Vec<Busy>,
}

/// Results as they come in.
#[derive(Default)]
struct Results {
    /// Not yet added up, by the first micro-batch: those before them are missing.
    waiting: BTreeMap<usize, Computed>,
    sum: Sum,
    /// Who computed what, in the order of the batch.
    pieces: BTreeMap<usize, Piece>,
    bytes: u64,
    /// Who gave gradients that are not finite, and where: another device is asked.
    doubted: Vec<(usize, Range<usize>)>,
}

/// The pieces that were added up: always those from the beginning of the batch on, so that the order of the sum is the
/// order of the batch, whoever is done first.
#[derive(Default)]
struct Sum {
    /// Micro-batches.
    until: usize,
    gradients: Vec<f32>,
    counts: Counts,
}

/// What follows from an answer.
enum Consequence {
    Nothing,
    /// The others compute it as well.
    Again(Range<usize>, usize),
    Lost(usize, Leave),
}

impl Fleet {
    /// The gradients and tallies of a step, in the lead's.
    pub(crate) fn differentiate(&mut self, lead: &Worker<'_>, batch: &Arc<StepBatch>) -> Result<Gathered> {
        self.boundary(lead.step)?;
        let begin = Instant::now();
        let weights = self.give_out(&lead.model)?;
        let pieces = self.divide(lead.step, batch.micros.len())?;
        let job = Job { weights, step: lead.step, batch: batch.clone() };
        let Results { sum, pieces, bytes, .. } = self.carry_out(&job, pieces)?;
        lead.gradients.bundle.flat.write_floats(&sum.gradients)?;
        lead.gradients.tally.set_counts(&sum.counts)?;
        let pieces: Vec<Piece> = pieces.into_values().collect();
        let predicted_bytes = predicted_bytes(&job.weights, &pieces, sum.counts.len());
        self.spare.push(sum.gradients);
        self.weights_before = Some(job.weights);
        let reason = self.shares.as_ref().map_or_else(String::new, |(_, shares)| shares.to_string());
        let (workers, mut busy) = self.close_lap(begin.elapsed());
        let tokens_per_micro = u64::from(self.run.batch.micro) * u64::from(self.run.data.sequence);
        for piece in &pieces {
            busy[piece.worker].tokens += piece.micros as u64 * tokens_per_micro;
        }
        let exchange = Exchange { step: lead.step + 1, reason, bytes, predicted_bytes, workers, pieces };
        Ok(Gathered { exchange, busy })
    }

    fn give_out(&mut self, model: &Model) -> Result<Arc<Weights>> {
        self.weights += 1;
        // Nobody holds those of the step before any more, but for a device that hangs.
        let before = self.weights_before.take().and_then(Arc::into_inner);
        let mut parameters = before.map_or_else(Vec::new, |weights| weights.parameters);
        model.parameters.flat.read_floats(&mut parameters)?;
        Ok(Arc::new(Weights { number: self.weights, parameters, state: model.buffer_values()? }))
    }

    /// Who computes which micro-batches: as it was in a process that was killed, or else by measured speed.
    fn divide(&mut self, step: u64, micros: usize) -> Result<Vec<(usize, Range<usize>)>> {
        let active = self.membership.active();
        let as_before = self
            .recorded
            .remove(&step)
            .filter(|pieces| pieces.iter().map(|piece| piece.micros).sum::<usize>() == micros);
        if let Some(pieces) = as_before {
            let stands_in = |index: usize, worker| {
                if active.contains(&worker) { worker } else { active[index % active.len()] }
            };
            let pieces = pieces
                .iter()
                .enumerate()
                .map(|(index, piece)| (stands_in(index, piece.worker), piece.micros));
            return Ok(ranges(0, pieces));
        }
        let capacities = self.capacities(&active);
        let present = self.shares.take().filter(|(workers, shares)| {
            *workers == active && shares.counts.iter().sum::<u64>() == micros as u64
        });
        let divided = match &present {
            Some((_, present)) => shares::revise(present, &capacities, GAIN),
            None => split(micros as u64, &capacities),
        };
        let shares = divided.map_err(|error| Problem::new(error.to_string(), "this is a bug; report it"))?;
        let unsure: Vec<bool> = active.iter().map(|&worker| self.seats[worker].is_unsure()).collect();
        let counts = shares::with_probes(&shares.counts, &unsure).into_iter().map(|count| count as usize);
        let counts: Vec<usize> = counts.collect();
        self.shares = Some((active.clone(), shares));
        Ok(ranges(0, active.into_iter().zip(counts)))
    }

    /// A device that was not measured yet counts like the mean of the others.
    fn capacities(&self, active: &[usize]) -> Vec<Capacity> {
        let speeds: Vec<Option<f64>> =
            active.iter().map(|&worker| self.seats[worker].speed.per_s()).collect();
        let known: Vec<f64> = speeds.iter().flatten().copied().collect();
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        speeds.into_iter().map(|speed| Capacity { speed: speed.unwrap_or(mean), most: None }).collect()
    }

    /// Sends the pieces out and waits for all of them, whoever computes them in the end.
    fn carry_out(&mut self, job: &Job, pieces: Vec<(usize, Range<usize>)>) -> Result<Results> {
        let mut results = Results::default();
        for (worker, range) in pieces {
            self.order(worker, job, range);
        }
        while self.seats.iter().any(|seat| !seat.owes.is_empty()) {
            let consequence = match self.answers.recv_timeout(self.patience()) {
                Ok(answer) => self.hear(answer, job, &mut results),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.overdue(job.step),
            };
            match consequence {
                Consequence::Nothing => {}
                Consequence::Again(range, but) => self.hand_over(job, range, but)?,
                Consequence::Lost(worker, leave) => {
                    for range in self.leave(worker, leave)? {
                        self.hand_over(job, range, worker)?;
                    }
                }
            }
        }
        Ok(results)
    }

    fn order(&mut self, worker: usize, job: &Job, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let order = Order::Differentiate(Part {
            weights: job.weights.clone(),
            step: job.step,
            batch: job.batch.clone(),
            range: range.clone(),
            room: self.spare.pop().unwrap_or_default(),
        });
        let seat = &mut self.seats[worker];
        if seat.owes.is_empty() {
            seat.heard = Instant::now();
        }
        seat.owes.push(range);
        // Where its thread has ended, why is among the answers.
        let _ = seat.orders.send(order);
    }

    /// The others compute what a device owes, or what is doubted of it.
    fn hand_over(&mut self, job: &Job, range: Range<usize>, but: usize) -> Result<()> {
        let mut active = self.membership.active();
        if active.len() > 1 {
            active.retain(|&worker| worker != but);
        }
        let shares = split(range.len() as u64, &self.capacities(&active))
            .map_err(|error| Problem::new(error.to_string(), "this is a bug; report it"))?;
        let counts = shares.counts.into_iter().map(|count| count as usize);
        for (worker, range) in ranges(range.start, active.into_iter().zip(counts)) {
            self.order(worker, job, range);
        }
        Ok(())
    }

    /// Takes in an answer.
    fn hear(&mut self, answer: Answer, job: &Job, results: &mut Results) -> Consequence {
        let (worker, step) = (answer.worker, job.step);
        let is_active = self.membership.standing(worker) == Some(&Standing::Active);
        if self.seats[worker].life != answer.life || !is_active {
            // A device that takes no part cannot be the last that is lost.
            let _ = self.hear_between(answer, step);
            return Consequence::Nothing;
        }
        let is_alone = self.membership.active().len() == 1;
        let seat = &mut self.seats[worker];
        seat.heard = Instant::now();
        match answer.news {
            News::Micro(time) => {
                seat.lap.compute += time;
                seat.lap.micros += 1;
                Consequence::Nothing
            }
            News::Piece(piece) if piece.number == job.weights.number => {
                seat.lap.exchange += piece.exchange;
                seat.lap.whole += piece.whole;
                seat.peak_memory_bytes = seat.peak_memory_bytes.max(piece.peak_memory_bytes);
                seat.owes.retain(|range| *range != piece.range);
                match results.add(worker, piece, is_alone) {
                    Verdict::Counts => {
                        self.spare.extend(results.add_up());
                        Consequence::Nothing
                    }
                    Verdict::Doubted(range) => Consequence::Again(range, worker),
                    Verdict::Refutes(liar) => {
                        self.spare.extend(results.add_up());
                        let name = &self.seats[worker].name;
                        let reason = format!("its gradients are not finite, {name}'s of the same text are");
                        Consequence::Lost(liar, Leave::Failed { step, reason })
                    }
                }
            }
            News::Failed(error) | News::Absent(error) => {
                Consequence::Lost(worker, Leave::Failed { step, reason: error.problem })
            }
            _ => Consequence::Nothing,
        }
    }

    /// How long the most impatient may still be silent.
    fn patience(&self) -> Duration {
        let owing = self.seats.iter().filter(|seat| !seat.owes.is_empty());
        let left_s =
            owing.map(|seat| self.allowed_s(seat.speed.per_s()) - seat.heard.elapsed().as_secs_f64());
        Duration::from_secs_f64(left_s.fold(f64::INFINITY, f64::min).clamp(1e-3, 3600.0))
    }

    /// A device that was not measured yet may take longer: its first micro-batch warms everything up.
    pub(super) fn allowed_s(&self, speed: Option<f64>) -> f64 {
        let is_alone = self.membership.active().len() == 1;
        // Nobody could do the work of the last one, so it is given up later.
        let least_s = self.run.sync.deadline_s * if is_alone { PATIENCE } else { 1.0 };
        speed.map_or(PATIENCE * least_s, |speed| deadline_s(1.0 / speed, PATIENCE, least_s))
    }

    /// The first device that was silent for too long.
    fn overdue(&self, step: u64) -> Consequence {
        let mut owing = self.seats.iter().enumerate().filter(|(_, seat)| !seat.owes.is_empty());
        let late = owing.find_map(|(worker, seat)| {
            let silent_s = seat.heard.elapsed().as_secs_f64();
            Some((worker, overdue(step, silent_s, self.allowed_s(seat.speed.per_s()))?))
        });
        late.map_or(Consequence::Nothing, |(worker, leave)| Consequence::Lost(worker, leave))
    }

    /// Learns the speeds, and says who did what.
    fn close_lap(&mut self, wall: Duration) -> (Vec<WorkerShare>, Vec<Busy>) {
        let mut shares = Vec::new();
        let mut busy = Vec::new();
        let micros: u64 = self.seats.iter().map(|seat| seat.lap.micros).sum();
        for seat in &mut self.seats {
            let Lap { compute, exchange, whole, micros: own } = std::mem::take(&mut seat.lap);
            seat.speed.observe(own, whole.as_secs_f64());
            seat.unmeasured_steps = if own > 0 { 0 } else { seat.unmeasured_steps + 1 };
            shares.push(WorkerShare {
                own_steps: u64::from(own > 0),
                busy_s: compute.as_secs_f64(),
                exchange_s: exchange.as_secs_f64(),
                waiting_s: wall.saturating_sub(compute + exchange).as_secs_f64(),
                weight: own as f64 / micros.max(1) as f64,
            });
            busy.push(Busy { compute, exchange, tokens: 0 });
        }
        (shares, busy)
    }
}

/// What a piece changes.
enum Verdict {
    Counts,
    /// Its numbers are not finite: another device shall compute it as well.
    Doubted(Range<usize>),
    /// It is finite where this device's numbers were not.
    Refutes(usize),
}

impl Results {
    /// A piece is in. `is_alone`: there is no other device that could be asked.
    fn add(&mut self, worker: usize, piece: Computed, is_alone: bool) -> Verdict {
        let within = |(_, doubted): &(usize, Range<usize>)| {
            doubted.start <= piece.range.start && piece.range.end <= doubted.end
        };
        let doubt = self.doubted.iter().position(within);
        let is_finite = piece.is_finite;
        let verdict = match doubt {
            None if !is_finite && !is_alone => {
                self.doubted.push((worker, piece.range.clone()));
                return Verdict::Doubted(piece.range);
            }
            Some(index) if is_finite && self.doubted[index].0 != worker => {
                Verdict::Refutes(self.doubted.remove(index).0)
            }
            _ => Verdict::Counts,
        };
        self.bytes += piece.bytes;
        self.pieces.insert(piece.range.start, Piece { worker, micros: piece.range.len() });
        self.waiting.insert(piece.range.start, piece);
        verdict
    }

    /// Adds up what follows on what was added up already, while other devices still compute. Memory that is left over.
    fn add_up(&mut self) -> Vec<Vec<f32>> {
        let mut left = Vec::new();
        while let Some(piece) = self.waiting.remove(&self.sum.until) {
            let is_first = self.sum.until == 0;
            self.sum.until = piece.range.end;
            if is_first {
                (self.sum.gradients, self.sum.counts) = (piece.gradients, piece.counts);
            } else {
                sum::add(&mut self.sum.gradients, &piece.gradients);
                self.sum.counts.add(&piece.counts);
                left.push(piece.gradients);
            }
        }
        left
    }
}

/// What a step moves, by the cost model: each device takes the weights once, each piece brings gradients and counts.
fn predicted_bytes(weights: &Weights, pieces: &[Piece], counts: usize) -> u64 {
    let takers: BTreeSet<usize> = pieces.iter().map(|piece| piece.worker).collect();
    let state = weights.state.iter().map(Vec::len).sum::<usize>();
    traffic::hub_bytes([takers.len(), pieces.len()], [weights.parameters.len(), state, counts])
}

/// The ranges of pieces of so many micro-batches each, from `first` on.
fn ranges(first: usize, counts: impl Iterator<Item = (usize, usize)>) -> Vec<(usize, Range<usize>)> {
    let mut from = first;
    let range = |(worker, count)| {
        let range = from..from + count;
        from += count;
        (worker, range)
    };
    counts.map(range).filter(|(_, range)| !range.is_empty()).collect()
}
