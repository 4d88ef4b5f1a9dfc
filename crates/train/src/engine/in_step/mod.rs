//! Several devices train one model in step: each computes a share of every batch, and the host sums the
//! gradients.
//!
//! The weights, the optimizer and its moments live on the host; so no device is needed to go on, and all
//! devices hold the same bits whatever they are made by. In every step each device takes the weights,
//! differentiates its share of the micro-batches, and gives the gradients back; the host adds them up in the
//! order of the batch. What a lost device owes is computed by the others. Reading order: here, `division`
//! (who computes how much), `results` (how pieces add up).

mod division;
mod results;
#[cfg(test)]
mod tests;

use super::fleet::{Awaited, Heard};
use super::{Busy, Engine, Fleet, Meeting, PaidDevice, Taken};
use crate::checkpoint::Snapshot;
use crate::crew::{Command, Content, Part, Report, Weights};
use crate::data::StepBatch;
use crate::training::Training;
use division::{Assigned, Division};
use lingot_model::{Model, Totals};
use lingot_spec::event::{Event, Exchange, Piece, WorkerShare};
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::RunSpec;
use lingot_sync::membership::Leave;
use lingot_sync::traffic;
use results::{Results, Verdict};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The engine of devices in step.
pub(crate) struct InStep {
    pub(super) fleet: Fleet,
    division: Division,
    /// What each worker does in the step under way.
    places: Vec<Place>,
    /// Sets of weights given out so far.
    weights: u64,
    /// Memory that is used again, since large vectors are expensive to allocate: the weights of the step
    /// before, and gradients that were added up.
    weights_before: Option<Arc<Weights>>,
    spare: Vec<Vec<f32>>,
}

/// What a worker does in a step.
#[derive(Clone, Default)]
struct Place {
    /// Micro-batch ranges that it was given and has not brought.
    owes: Vec<Range<usize>>,
    compute: Duration,
    exchange: Duration,
    /// From commands to reports.
    whole: Duration,
    micros: u64,
}

/// The gradients of a step, summed.
pub(crate) struct Gathered {
    results: Results,
    weights: Arc<Weights>,
    totals: Totals,
}

/// What is to be done with some micro-batches.
struct Job {
    weights: Arc<Weights>,
    step: u64,
    batch: Arc<StepBatch>,
}

/// What follows from a report.
enum Consequence {
    Nothing,
    /// The others compute the range as well.
    Again {
        range: Range<usize>,
        except: usize,
    },
    Lost {
        worker: usize,
        leave: Leave,
    },
}

impl InStep {
    /// For a run that has taken `step` steps, with its log so far: steps that a killed process took are
    /// divided as they were then, so that the sums have the same order.
    pub(crate) fn new(fleet: Fleet, history: &[Event], step: u64) -> InStep {
        InStep {
            division: Division::new(fleet.is_emulated(), history, step),
            fleet,
            places: Vec::new(),
            weights: 0,
            weights_before: None,
            spare: Vec::new(),
        }
    }

    fn give_out(&mut self, model: &Model) -> Result<Arc<Weights>> {
        self.weights += 1;
        // Only a device that hangs may still hold those of the step before.
        let before = self.weights_before.take().and_then(Arc::into_inner);
        let mut parameters = before.map_or_else(Vec::new, |weights| weights.parameters);
        model.parameters.flat.read_floats(&mut parameters)?;
        Ok(Arc::new(Weights { number: self.weights, parameters, state: model.buffer_values()? }))
    }

    /// Sends the ranges out and waits for all of them, whichever worker computes them in the end.
    fn carry_out(&mut self, job: &Job, assigned: Vec<Assigned>) -> Result<Results> {
        let mut results = Results::default();
        assigned.into_iter().for_each(|assigned| self.command(job, assigned));
        loop {
            let awaited = self.awaited();
            if awaited.is_empty() {
                return Ok(results);
            }
            let consequence = match self.fleet.listen(&awaited, job.step)? {
                Heard::Report(report) => self.hear(report, job, &mut results),
                Heard::Silent { worker, leave } => Consequence::Lost { worker, leave },
                Heard::Nothing => Consequence::Nothing,
            };
            match consequence {
                Consequence::Nothing => {}
                Consequence::Again { range, except } => self.hand_over(job, range, except)?,
                Consequence::Lost { worker, leave } => {
                    for range in self.lose(worker, leave)? {
                        self.hand_over(job, range, worker)?;
                    }
                }
            }
        }
    }

    /// The workers that owe something, with the time that one micro-batch takes each.
    fn awaited(&self) -> Vec<Awaited> {
        let owing = self.places.iter().enumerate().filter(|(_, place)| !place.owes.is_empty());
        owing.map(|(worker, _)| Awaited { worker, expected_s: self.division.micro_s(worker) }).collect()
    }

    fn command(&mut self, job: &Job, Assigned { worker, range }: Assigned) {
        self.places[worker].owes.push(range.clone());
        let part = Part {
            weights: job.weights.clone(),
            step: job.step,
            batch: job.batch.clone(),
            range,
            memory: self.spare.pop().unwrap_or_default(),
        };
        self.fleet.command(worker, Command::Differentiate(part));
    }

    /// Lets a worker leave. Returns what it owed.
    fn lose(&mut self, worker: usize, leave: Leave) -> Result<Vec<Range<usize>>> {
        let owes = std::mem::take(&mut self.places[worker].owes);
        let micros: usize = owes.iter().map(Range::len).sum();
        let others = format!("others compute the {micros} micro-batches that it owes");
        self.fleet.leave(worker, leave, (micros > 0).then_some(others))?;
        Ok(owes)
    }

    /// Lets the others compute what a worker owes, or what is doubted of it.
    fn hand_over(&mut self, job: &Job, range: Range<usize>, except: usize) -> Result<()> {
        let mut active = self.fleet.active();
        if active.len() > 1 {
            active.retain(|&worker| worker != except);
        }
        for assigned in self.division.hand_over(range, &active)? {
            self.command(job, assigned);
        }
        Ok(())
    }

    /// Takes in a report.
    fn hear(&mut self, report: Report, job: &Job, results: &mut Results) -> Consequence {
        let (worker, step) = (report.worker, job.step);
        let is_alone = self.fleet.active().len() == 1;
        let place = &mut self.places[worker];
        match report.content {
            Content::Micro(time) => {
                place.compute += time;
                place.micros += 1;
                Consequence::Nothing
            }
            Content::Piece(piece) if piece.weights == job.weights.number => {
                place.exchange += piece.moved.time;
                place.whole += piece.whole;
                place.owes.retain(|range| *range != piece.range);
                self.fleet.note_peak_memory(worker, piece.peak_memory_bytes);
                let verdict = results.add(worker, piece, is_alone);
                self.spare.extend(results.add_up());
                match verdict {
                    Verdict::Counts => Consequence::Nothing,
                    Verdict::Doubted(range) => Consequence::Again { range, except: worker },
                    Verdict::Refutes(other) => {
                        let name = self.fleet.name(worker);
                        let problem = Problem::new(
                            format!("its gradients are not finite, {name}'s of the same text are"),
                            "check the device: `lingot align` compares it with another",
                        );
                        Consequence::Lost { worker: other, leave: Leave::Failed { step, problem } }
                    }
                }
            }
            Content::Failed(problem) | Content::Absent(problem) => {
                Consequence::Lost { worker, leave: Leave::Failed { step, problem } }
            }
            _ => Consequence::Nothing,
        }
    }

    /// Learns the speeds, and says who did what.
    fn close(&mut self, gathered: &Gathered, run: &RunSpec) -> Meeting {
        let wall = Duration::from_secs_f64(self.fleet.crew().elapsed_s());
        let micros: u64 = self.places.iter().map(|place| place.micros).sum();
        let (mut workers, mut busy) = (Vec::new(), Vec::new());
        for (worker, place) in self.places.iter().enumerate() {
            let Place { compute, exchange, whole, micros: own, .. } = *place;
            self.division.observe(worker, own, whole.as_secs_f64());
            workers.push(WorkerShare {
                own_steps: u64::from(own > 0),
                busy_s: compute.as_secs_f64(),
                exchange_s: exchange.as_secs_f64(),
                waiting_s: wall.saturating_sub(compute + exchange).as_secs_f64(),
                weight: own as f64 / micros.max(1) as f64,
            });
            busy.push(Busy { compute, exchange, tokens: 0 });
        }
        let pieces: Vec<Piece> = gathered.results.pieces();
        let tokens_per_micro = u64::from(run.batch.micro) * u64::from(run.data.sequence);
        for piece in &pieces {
            busy[piece.worker].tokens += piece.micros as u64 * tokens_per_micro;
        }
        let counts = gathered.results.counts().len();
        let mut exchange = Exchange {
            step: 0,
            reason: self.division.reason(),
            bytes: gathered.results.bytes,
            predicted_bytes: predicted_bytes(&gathered.weights, &pieces, counts),
            workers,
            pieces,
        };
        if self.fleet.is_emulated() {
            busy.clear();
            // They stand for machines that hand each other their gradients, not by way of a host.
            let parameters = gathered.weights.parameters.len() as u64;
            exchange.predicted_bytes = traffic::every_step_bytes(self.fleet.len() as u64, parameters);
            exchange.bytes = exchange.predicted_bytes;
        }
        let peak_memory_bytes = self.fleet.peak_memory_bytes();
        Meeting { exchange, outliers: Vec::new(), busy, peak_memory_bytes }
    }
}

impl Engine for InStep {
    type Batch = Arc<StepBatch>;
    type Changes = Gathered;

    fn fetch(&mut self, training: &mut Training<'_>) -> Result<Arc<StepBatch>> {
        for worker in self.fleet.boundary(training.position.step)? {
            self.division.forget(worker);
        }
        Ok(Arc::new(training.fetch()?))
    }

    fn differentiate(&mut self, training: &mut Training<'_>, batch: Arc<StepBatch>) -> Result<Gathered> {
        self.fleet.restart_clock();
        self.places = vec![Place::default(); self.fleet.len()];
        let weights = self.give_out(&training.home.model)?;
        let step = training.position.step;
        let assigned = self.division.divide(step, batch.micros.len(), &self.fleet.active())?;
        let job = Job { weights, step, batch };
        let results = self.carry_out(&job, assigned)?;
        Ok(Gathered { results, totals: job.batch.totals, weights: job.weights })
    }

    fn agree(&mut self, training: &mut Training<'_>, mut gathered: Gathered) -> Result<Option<Taken>> {
        let gradients = &training.home.gradients;
        gradients.bundle.flat.write_floats(gathered.results.gradients())?;
        gradients.tally.set_counts(gathered.results.counts())?;
        let meeting = self.close(&gathered, training.run);
        self.spare.push(gathered.results.take_gradients());
        self.weights_before = Some(gathered.weights);
        let outcome = training.home.outcome(training.run, gathered.totals)?;
        Ok(Some(Taken { outcome, totals: gathered.totals, meeting: Some(meeting) }))
    }

    fn update(&mut self, training: &mut Training<'_>, taken: &Taken) -> Result<()> {
        training.update(taken.totals, &taken.outcome)
    }

    fn snapshot(&mut self, training: &Training<'_>) -> Result<Snapshot> {
        Snapshot::of(&training.home)
    }

    fn devices(&self, _training: &Training<'_>) -> Vec<PaidDevice> {
        self.fleet.devices()
    }

    fn fleet(&mut self) -> Option<&mut Fleet> {
        Some(&mut self.fleet)
    }
}

/// What a step moves by the cost model: each device takes the weights once, each piece brings gradients and
/// counts.
fn predicted_bytes(weights: &Weights, pieces: &[Piece], counts: usize) -> u64 {
    let takers: BTreeSet<usize> = pieces.iter().map(|piece| piece.worker).collect();
    let state = weights.state.iter().map(Vec::len).sum::<usize>();
    traffic::hub_bytes([takers.len(), pieces.len()], [weights.parameters.len(), state, counts])
}
