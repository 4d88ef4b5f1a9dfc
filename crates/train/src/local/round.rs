//! From one meeting to the next: each worker's own steps, in the order of the virtual clocks.

use super::meeting::Minutes;
use super::{Local, Tamper, nothing_finite};
use crate::schedule;
use crate::worker::{self, Outcome, StepBatch, Worker, totals};
use lingot_data::Batch;
use lingot_model::{Losses, Totals};
use lingot_spec::Result;
use lingot_spec::run::RunSpec;
use lingot_sync::penalty::Verdict;
use lingot_sync::strategy::{self, Decision, Meet, Progress};
use lingot_sync::traffic;

/// One step of all, or the steps of each up to a meeting.
pub struct Round {
    /// Means over the round's steps of all workers.
    pub outcome: Outcome,
    /// Its tokens.
    pub batch: StepBatch,
    /// A sentence: why the workers met.
    pub reason: String,
    /// Steps of each worker's own; 1 where they went in step.
    pub own_steps: Vec<u64>,
    /// Time by rank, virtual of emulated workers.
    pub busy_s: Vec<f64>,
    /// Taking and bringing numbers; 0 of emulated workers.
    pub exchange_s: Vec<f64>,
    pub waiting_s: Vec<f64>,
    /// Counted, and predicted by the cost model.
    pub bytes: u64,
    pub predicted_bytes: u64,
    /// Layer and rank of what did not count, and why.
    pub anomalies: Vec<(String, usize, Verdict)>,
    /// How much each worker's change counted, the mean over layers.
    pub weights: Vec<f64>,
    /// By layer, the norm of each worker's change; none where they went in step.
    pub norms: Vec<(String, Vec<f64>)>,
}

/// What adds up in a round.
#[derive(Default)]
pub(crate) struct Sums {
    losses: Losses,
    gradient_norm: f64,
    loads: Vec<Vec<i32>>,
    pub(crate) totals: Totals,
    pub(crate) turns: u64,
    pub(crate) finite: u64,
}

impl Local {
    /// The next round. Afterwards all workers hold the same weights, and the lead has come so far.
    pub fn advance(&mut self, lead: &mut Worker<'_>, tamper: Tamper<'_>) -> Result<Round> {
        let at = Progress { step: lead.step, ..Progress::default() };
        if let Decision::InStep(_) = strategy::next(&lead.run.sync, &at) {
            return self.in_step(lead, tamper);
        }
        if !self.are_apart {
            self.follow(lead)?;
        }
        self.apart(lead, tamper)
    }

    /// One step with summed gradients. All would hold the same weights, so the lead's stand for everyone's.
    fn in_step(&mut self, lead: &mut Worker<'_>, tamper: Tamper<'_>) -> Result<Round> {
        let (run, share) = (lead.run, self.share(lead.run));
        let workers = self.speeds.len();
        let mut shares = Vec::new();
        for rank in 0..workers {
            let first = self.samples + rank as u64 * u64::from(share);
            let mut micros = lead.micros(first, share)?;
            micros.iter_mut().for_each(|micro| tamper(rank, lead.step, micro));
            shares.push(micros);
        }
        let totals = totals(run, shares.iter().flatten());
        lead.gradients.clear()?;
        let mut parts = Vec::new();
        let mut sample = 0;
        for micros in &shares {
            lead.gradients.bundle.clear()?;
            for micro in micros {
                lead.differentiate_micro(micro, sample, totals)?;
                sample += micro.sequences as u64;
            }
            parts.push(lead.gradients.bundle.flat.to_floats()?);
        }
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        lead.gradients.bundle.flat.write_floats(&self.exchange.sum(&parts, &vec![1.0; workers]))?;
        let batch = StepBatch { micros: Vec::new(), totals };
        let outcome = lead.outcome(totals)?;
        let reason = format!("step {} is taken together", lead.step + 1);
        lead.update(&batch, &outcome)?;
        self.samples += u64::from(share) * workers as u64;
        let busy_s: Vec<f64> = self.speeds.iter().map(|speed| f64::from(share) / speed).collect();
        let parameters = self.agreed.weights.len() as u64;
        Ok(Round {
            outcome,
            batch,
            reason,
            own_steps: vec![1; workers],
            exchange_s: vec![0.0; workers],
            waiting_s: waiting(&busy_s),
            busy_s,
            bytes: self.exchange.take_bytes(),
            predicted_bytes: traffic::every_step_bytes(workers as u64, parameters),
            anomalies: Vec::new(),
            weights: vec![1.0 / workers as f64; workers],
            norms: Vec::new(),
        })
    }

    /// Every worker's own steps, then the meeting.
    fn apart(&mut self, lead: &mut Worker<'_>, tamper: Tamper<'_>) -> Result<Round> {
        let begin = lead.step;
        let mut clocks = Clocks::new(self, lead.run, lead.step);
        let mut sums = Sums::default();
        while let Some(rank) = clocks.next(lead.run, self.samples) {
            let step = begin + clocks.own_steps[rank];
            let mut micros = lead.micros(self.samples, self.share(lead.run))?;
            micros.iter_mut().for_each(|micro| tamper(rank, step, micro));
            self.turn(lead, rank, step, micros, &mut sums)?;
            self.samples += u64::from(self.share(lead.run));
            clocks.took(rank);
        }
        if sums.finite == 0 {
            return Err(nothing_finite(begin, lead.run.optimizer.rate));
        }
        let Minutes { bytes, predicted_bytes, anomalies, weights, norms } = self.meet(lead)?;
        lead.step = self.samples / u64::from(lead.run.batch.sequences);
        lead.tokens += sums.totals.tokens;
        let totals = sums.totals;
        Ok(Round {
            outcome: sums.outcome(),
            batch: StepBatch { micros: Vec::new(), totals },
            reason: clocks.reason,
            exchange_s: vec![0.0; clocks.own_steps.len()],
            own_steps: clocks.own_steps,
            waiting_s: waiting(&clocks.elapsed_s),
            busy_s: clocks.elapsed_s,
            bytes,
            predicted_bytes,
            anomalies,
            weights,
            norms,
        })
    }

    /// One step of one worker alone.
    fn turn(
        &mut self,
        lead: &mut Worker<'_>,
        rank: usize,
        step: u64,
        micros: Vec<Batch>,
        sums: &mut Sums,
    ) -> Result<()> {
        let run = lead.run;
        let rate = schedule::rate(&run.schedule, run.optimizer.rate, step, run.stop.steps);
        lead.last_rate = rate;
        lead.gradients.clear()?;
        let totals = totals(run, &micros);
        let (model, optimizer) = match rank.checked_sub(1) {
            None => (&lead.model, &lead.optimizer),
            Some(other) => (&self.others[other].model, &self.others[other].optimizer),
        };
        let batch = StepBatch { micros, totals };
        let gradients = &lead.gradients;
        let outcome = worker::step_alone(
            run,
            (step, rate),
            model,
            optimizer,
            gradients,
            &batch,
            &lingot_model::Resident,
        )?;
        sums.add(&outcome, totals);
        Ok(())
    }
}

/// The virtual clocks of a round.
struct Clocks {
    step: u64,
    own_steps: Vec<u64>,
    elapsed_s: Vec<f64>,
    /// Of a step, by rank.
    step_s: Vec<f64>,
    is_met: Vec<bool>,
    prolonged: u64,
    share: u64,
    reason: String,
}

impl Clocks {
    fn new(local: &Local, run: &RunSpec, step: u64) -> Clocks {
        let workers = local.speeds.len();
        let share = local.share(run);
        Clocks {
            step,
            own_steps: vec![0; workers],
            elapsed_s: vec![0.0; workers],
            step_s: local.speeds.iter().map(|speed| f64::from(share) / speed).collect(),
            is_met: vec![false; workers],
            prolonged: 0,
            share: share.into(),
            reason: String::new(),
        }
    }

    /// The worker whose turn it is: the earliest of those that take another step. None when all have met.
    fn next(&mut self, run: &RunSpec, samples: u64) -> Option<usize> {
        if samples + self.share > run.stop.steps * u64::from(run.batch.sequences) {
            self.reason = format!("all {} steps of the run are done", run.stop.steps);
            return None;
        }
        loop {
            let on_the_way = (0..self.own_steps.len()).filter(|&rank| !self.is_met[rank]);
            let earliest = on_the_way.min_by(|&a, &b| self.elapsed_s[a].total_cmp(&self.elapsed_s[b]));
            let Some(rank) = earliest else {
                if strategy::enough_steps(&run.sync, &self.own_steps).is_ok() {
                    return None;
                }
                self.prolonged += 1;
                self.is_met.fill(false);
                continue;
            };
            match strategy::next(&run.sync, &self.progress(rank)) {
                Decision::Meet(meet) => self.meet(rank, meet),
                _ => return Some(rank),
            }
        }
    }

    fn progress(&self, rank: usize) -> Progress {
        Progress {
            step: self.step,
            own_steps: self.own_steps[rank],
            elapsed_s: self.elapsed_s[rank],
            next_step_s: self.step_s[rank],
            prolonged: self.prolonged,
        }
    }

    fn meet(&mut self, rank: usize, meet: Meet) {
        self.is_met[rank] = true;
        self.reason = format!("worker {rank}: {meet}");
    }

    fn took(&mut self, rank: usize) {
        self.own_steps[rank] += 1;
        self.elapsed_s[rank] += self.step_s[rank];
    }
}

impl Sums {
    pub(crate) fn add(&mut self, outcome: &Outcome, totals: Totals) {
        self.turns += 1;
        self.totals.tokens += totals.tokens;
        self.totals.targets += totals.targets;
        self.totals.mtp_targets += totals.mtp_targets;
        if !outcome.is_finite() {
            return;
        }
        self.finite += 1;
        self.add_outcome(outcome.losses, outcome.gradient_norm, &outcome.loads);
    }

    /// What another worker did.
    pub(crate) fn merge(&mut self, other: Sums) {
        self.turns += other.turns;
        self.finite += other.finite;
        self.totals.tokens += other.totals.tokens;
        self.totals.targets += other.totals.targets;
        self.totals.mtp_targets += other.totals.mtp_targets;
        self.add_outcome(other.losses, other.gradient_norm, &other.loads);
    }

    fn add_outcome(&mut self, losses: Losses, gradient_norm: f64, all_loads: &[Vec<i32>]) {
        let sum = &mut self.losses;
        sum.main += losses.main;
        sum.mtp += losses.mtp;
        sum.balance += losses.balance;
        sum.z += losses.z;
        sum.total += losses.total;
        self.gradient_norm += gradient_norm;
        self.loads.resize(self.loads.len().max(all_loads.len()), Vec::new());
        for (sum, loads) in self.loads.iter_mut().zip(all_loads) {
            sum.resize(loads.len(), 0);
            sum.iter_mut().zip(loads).for_each(|(sum, load)| *sum += load);
        }
    }

    pub(crate) fn outcome(self) -> Outcome {
        let count = self.finite.max(1) as f64;
        let sum = self.losses;
        let losses = Losses {
            main: sum.main / count,
            mtp: sum.mtp / count,
            balance: sum.balance / count,
            z: sum.z / count,
            total: sum.total / count,
        };
        Outcome { losses, gradient_norm: self.gradient_norm / count, loads: self.loads }
    }
}

/// How long each waits for the last.
fn waiting(busy_s: &[f64]) -> Vec<f64> {
    let last_s = busy_s.iter().copied().fold(0.0, f64::max);
    busy_s.iter().map(|busy_s| last_s - busy_s).collect()
}
