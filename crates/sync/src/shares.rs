//! How a step's micro-batches are divided: by measured speed, within memory, and steady under noise.

use std::fmt;

/// What a worker can compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Micro-batches per second, as measured; 0 for a worker that takes none.
    pub micros_per_s: f64,
    /// The largest number of micro-batches of a step, where memory limits them.
    pub most: Option<u64>,
}

/// A division of a step's micro-batches.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Micro-batches by worker.
    pub counts: Vec<u64>,
    /// Seconds until the last worker has finished.
    pub finish_s: f64,
    /// Seconds that it would take with micro-batches of any size and no limits: all workers at full speed.
    pub ideal_s: f64,
    /// The worker that finishes last.
    pub slowest: Option<usize>,
}

/// The workers' limits together are below the number of micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsExceeded {
    /// Micro-batches of the step.
    pub micros: u64,
    /// Micro-batches that all workers together can take.
    pub limit: u64,
}

/// Returns the division that finishes earliest. Each micro-batch goes to the worker that would finish it
/// first, the lower rank among equals; with whole micro-batches of one size this minimises the latest finish.
/// Errors if the workers' limits leave micro-batches over.
pub fn split(micros: u64, workers: &[Capacity]) -> Result<Shares, LimitsExceeded> {
    let takes = |worker: &Capacity| worker.micros_per_s > 0.0 && worker.micros_per_s.is_finite();
    let limit = |worker: &Capacity| if takes(worker) { worker.most.unwrap_or(micros).min(micros) } else { 0 };
    let whole_limit = workers.iter().map(limit).fold(0_u64, u64::saturating_add);
    if whole_limit < micros {
        return Err(LimitsExceeded { micros, limit: whole_limit });
    }
    let total_speed: f64 =
        workers.iter().filter(|worker| takes(worker)).map(|worker| worker.micros_per_s).sum();
    // Most micro-batches are given at once, in proportion to speed and rounded down, which leaves fewer than
    // one per worker.
    let floor = |worker: &Capacity| {
        ((micros as f64 * worker.micros_per_s / total_speed).floor() as u64).min(limit(worker))
    };
    let mut counts: Vec<u64> =
        workers.iter().map(|worker| if takes(worker) { floor(worker) } else { 0 }).collect();
    trim(&mut counts, micros);
    let mut left = micros - counts.iter().sum::<u64>();
    while left > 0 {
        let finish = |rank: usize| (counts[rank] + 1) as f64 / workers[rank].micros_per_s;
        let open = (0..workers.len()).filter(|&rank| counts[rank] < limit(&workers[rank]));
        let Some(rank) = open.min_by(|&a, &b| finish(a).total_cmp(&finish(b))) else { break };
        counts[rank] += 1;
        left -= 1;
    }
    Ok(Shares::of(counts, workers, micros as f64 / total_speed))
}

/// Takes back what rounding of huge products has given beyond `micros`.
fn trim(counts: &mut [u64], micros: u64) {
    let mut over = counts.iter().sum::<u64>().saturating_sub(micros);
    for count in counts {
        let back = over.min(*count);
        *count -= back;
        over -= back;
    }
}

/// Returns the division to use now: the present one, unless another finishes earlier by more than `gain` (a
/// share of the time, such as 0.05) or the present one exceeds a limit. So noise in the measured speeds
/// changes nothing. Errors as [`split`].
pub fn revise(present: &Shares, workers: &[Capacity], gain: f64) -> Result<Shares, LimitsExceeded> {
    let micros = present.counts.iter().sum();
    let best = split(micros, workers)?;
    let fits = present.counts.len() == workers.len()
        && present.counts.iter().zip(workers).all(|(&count, worker)| {
            count == 0 || worker.micros_per_s > 0.0 && worker.most.is_none_or(|most| count <= most)
        });
    if !fits {
        return Ok(best);
    }
    let kept = Shares::of(present.counts.clone(), workers, best.ideal_s);
    Ok(if best.finish_s < kept.finish_s * (1.0 - gain) { best } else { kept })
}

/// Returns the micro-batches by worker with at least one for each `unsure` worker, taken from the busiest: a
/// worker that computes nothing is never measured, so one bad first measurement would exclude it forever.
pub fn with_probes(counts: &[u64], unsure: &[bool]) -> Vec<u64> {
    let mut counts = counts.to_vec();
    for rank in (0..counts.len()).filter(|&rank| unsure[rank]) {
        let busiest = (0..counts.len()).rev().max_by_key(|&other| counts[other]);
        if let Some(busiest) = busiest.filter(|&busiest| counts[rank] == 0 && counts[busiest] > 1) {
            counts[busiest] -= 1;
            counts[rank] = 1;
        }
    }
    counts
}

/// A worker's speed as a moving mean of its measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// Seconds per micro-batch.
    micro_s: f64,
    measured: u64,
}

impl Speed {
    /// Weight of the newest measurement: ten steps after a change the mean has followed 97 % of it.
    const NEWEST: f64 = 0.3;

    /// Takes a measurement: the worker computed `micros` micro-batches in `busy_s` seconds.
    pub fn observe(&mut self, micros: u64, busy_s: f64) {
        if micros == 0 || !(busy_s > 0.0 && busy_s.is_finite()) {
            return;
        }
        let micro_s = busy_s / micros as f64;
        // The first measurement includes warming up, so the second replaces it.
        let newest = if self.measured < 2 { 1.0 } else { Self::NEWEST };
        self.micro_s += newest * (micro_s - self.micro_s);
        self.measured += 1;
    }

    /// Whether there is more than the first measurement, which may be of a device that was still warming up.
    pub fn is_sure(&self) -> bool {
        self.measured > 1
    }

    /// Returns the speed in micro-batches per second, once measured.
    pub fn per_s(&self) -> Option<f64> {
        (self.measured > 0).then(|| 1.0 / self.micro_s)
    }
}

impl Shares {
    fn of(counts: Vec<u64>, workers: &[Capacity], ideal_s: f64) -> Shares {
        let finish = |rank: usize| match counts[rank] {
            0 => 0.0,
            count => count as f64 / workers[rank].micros_per_s,
        };
        let slowest = (0..counts.len())
            .filter(|&rank| counts[rank] > 0)
            .reduce(|best, rank| if finish(rank) > finish(best) { rank } else { best });
        let finish_s = slowest.map_or(0.0, finish);
        Shares { finish_s, ideal_s, slowest, counts }
    }

    /// Returns the share of the workers' full speed that this division reaches.
    pub fn efficiency(&self) -> f64 {
        if self.finish_s > 0.0 { self.ideal_s / self.finish_s } else { 1.0 }
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} micro-batches take {:.4} s", self.counts, self.finish_s)?;
        self.slowest.map_or(Ok(()), |rank| write!(f, ", worker {rank} is last"))?;
        write!(f, "; {:.1} % of what the workers could do", 100.0 * self.efficiency())
    }
}

impl fmt::Display for LimitsExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} micro-batches exceed the limits of the workers, which together take {}",
            self.micros, self.limit
        )
    }
}
