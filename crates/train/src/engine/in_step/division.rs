//! Who computes which micro-batches of a step: by measured speed, or as it was before a kill.

use lingot_spec::event::{Event, Piece};
use lingot_spec::problem::{Problem, Result};
use lingot_sync::shares::{self, Capacity, LimitsExceeded, Shares, Speed, split};
use std::collections::BTreeMap;
use std::ops::Range;

/// A worker whose share is empty computes one micro-batch after this many steps: it may have become faster.
const PROBE_STEPS: u64 = 50;

/// Shares are moved when that makes a step shorter by more than this share of it.
const GAIN: f64 = 0.01;

/// How a fleet divides its steps.
pub(super) struct Division {
    /// Every worker takes an equal share. Emulated workers do, so that a run has the same bits whatever their
    /// speeds.
    is_equal: bool,
    /// By worker.
    measured: Vec<Measured>,
    /// The division of the step before.
    present: Option<Present>,
    /// How steps were divided that a killed process took, by the steps before them.
    recorded: BTreeMap<u64, Vec<Piece>>,
}

/// Micro-batches that one worker computes.
pub(super) struct Assigned {
    pub(super) worker: usize,
    pub(super) range: Range<usize>,
}

/// What is known of a worker's speed.
#[derive(Clone, Copy, Default)]
struct Measured {
    speed: Speed,
    /// Steps since it last computed a micro-batch.
    idle_steps: u64,
}

/// A division, and among whom.
struct Present {
    workers: Vec<usize>,
    shares: Shares,
}

impl Division {
    /// For a run that has taken `step` steps, with its log so far.
    pub(super) fn new(is_equal: bool, history: &[Event], step: u64) -> Division {
        let recorded = history.iter().filter_map(|event| match event {
            Event::Exchange(exchange) if exchange.step > step && !exchange.pieces.is_empty() => {
                Some((exchange.step - 1, exchange.pieces.clone()))
            }
            _ => None,
        });
        Division { is_equal, measured: Vec::new(), present: None, recorded: recorded.collect() }
    }

    /// Divides the micro-batches of the step after `step` among the active workers.
    pub(super) fn divide(&mut self, step: u64, micros: usize, active: &[usize]) -> Result<Vec<Assigned>> {
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
        let capacities = self.capacities(active);
        let present = self.present.take().filter(|present| {
            present.workers == active && present.shares.counts.iter().sum::<u64>() == micros as u64
        });
        let shares = match &present {
            Some(present) => shares::revise(&present.shares, &capacities, GAIN),
            None => split(micros as u64, &capacities),
        };
        let shares = shares.map_err(bug)?;
        let unsure: Vec<bool> = active.iter().map(|&worker| self.is_unsure(worker)).collect();
        let counts = shares::with_probes(&shares.counts, &unsure);
        self.present = Some(Present { workers: active.to_vec(), shares });
        Ok(ranges(0, active.iter().copied().zip(counts.into_iter().map(|count| count as usize))))
    }

    /// Divides a range among the active workers, whatever they compute already.
    pub(super) fn hand_over(&self, range: Range<usize>, active: &[usize]) -> Result<Vec<Assigned>> {
        let shares = split(range.len() as u64, &self.capacities(active)).map_err(bug)?;
        let counts = shares.counts.into_iter().map(|count| count as usize);
        Ok(ranges(range.start, active.iter().copied().zip(counts)))
    }

    /// Notes that a worker computed `micros` micro-batches of a step in `whole_s`.
    pub(super) fn observe(&mut self, worker: usize, micros: u64, whole_s: f64) {
        self.make_room(worker);
        let measured = &mut self.measured[worker];
        measured.speed.observe(micros, whole_s);
        measured.idle_steps = if micros > 0 { 0 } else { measured.idle_steps + 1 };
    }

    /// Forgets the speed of a worker that joins: its device may be another now.
    pub(super) fn forget(&mut self, worker: usize) {
        self.make_room(worker);
        self.measured[worker].speed = Speed::default();
    }

    /// Seconds that a worker takes for a micro-batch, once measured.
    pub(super) fn micro_s(&self, worker: usize) -> Option<f64> {
        self.measured.get(worker)?.speed.per_s().map(|speed| 1.0 / speed)
    }

    /// Says why the step was divided as it was.
    pub(super) fn reason(&self) -> String {
        if self.is_equal {
            return "every worker takes an equal share of the step".into();
        }
        self.present.as_ref().map_or_else(String::new, |present| present.shares.to_string())
    }

    /// A worker that was not measured yet counts as the mean of the others.
    fn capacities(&self, active: &[usize]) -> Vec<Capacity> {
        let speed = |worker: &usize| self.measured.get(*worker).and_then(|measured| measured.speed.per_s());
        let speeds: Vec<Option<f64>> = active.iter().map(speed).collect();
        let known: Vec<f64> = speeds.iter().flatten().copied().collect();
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        let speed = |speed: Option<f64>| if self.is_equal { 1.0 } else { speed.unwrap_or(mean) };
        speeds.into_iter().map(|known| Capacity { micros_per_s: speed(known), most: None }).collect()
    }

    /// Whether a worker's speed is not known well enough to leave the worker out.
    fn is_unsure(&self, worker: usize) -> bool {
        let measured = self.measured.get(worker).copied().unwrap_or_default();
        !measured.speed.is_sure() || measured.idle_steps >= PROBE_STEPS
    }

    fn make_room(&mut self, worker: usize) {
        let workers = self.measured.len().max(worker + 1);
        self.measured.resize(workers, Measured::default());
    }
}

fn bug(error: LimitsExceeded) -> Problem {
    Problem::bug(error.to_string())
}

/// Consecutive ranges of the workers' counts of micro-batches, from `first` on.
fn ranges(first: usize, counts: impl Iterator<Item = (usize, usize)>) -> Vec<Assigned> {
    let mut from = first;
    let range = |(worker, count)| {
        let range = from..from + count;
        from += count;
        Assigned { worker, range }
    };
    counts.map(range).filter(|assigned| !assigned.range.is_empty()).collect()
}
