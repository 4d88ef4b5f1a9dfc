//! Who computes how many micro-batches of a step: as measured, within memory, and steady under noise.

use std::fmt;

/// What a worker can take on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Micro-batches per second, as measured; 0 for one that takes none.
    pub speed: f64,
    /// At most so many micro-batches of a step, where memory bounds them.
    pub most: Option<u64>,
}

/// A division of a step's micro-batches.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Micro-batches by worker.
    pub counts: Vec<u64>,
    /// When the last worker is through.
    pub finish_s: f64,
    /// Where the whole would be with micro-batches that can be cut at will and no bounds: the fleet's possible speed.
    pub ideal_s: f64,
    /// The worker that is through last.
    pub slowest: Option<usize>,
}

/// The bounds together leave micro-batches over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    pub micros: u64,
    pub room: u64,
}

/// The division that is through earliest. Each micro-batch goes to the worker that would be through with it first, the
/// lower rank among equals; with whole micro-batches of one size that minimises the latest finish.
pub fn split(micros: u64, workers: &[Capacity]) -> Result<Shares, NoRoom> {
    let takes = |worker: &Capacity| worker.speed > 0.0 && worker.speed.is_finite();
    let room = |worker: &Capacity| if takes(worker) { worker.most.unwrap_or(micros).min(micros) } else { 0 };
    let whole_room = workers.iter().map(room).fold(0_u64, u64::saturating_add);
    if whole_room < micros {
        return Err(NoRoom { micros, room: whole_room });
    }
    let total_speed: f64 = workers.iter().filter(|worker| takes(worker)).map(|worker| worker.speed).sum();
    // A floor that no division falls below is given at once, so that the rest is less than one per worker.
    let floor =
        |worker: &Capacity| ((micros as f64 * worker.speed / total_speed).floor() as u64).min(room(worker));
    let mut counts: Vec<u64> =
        workers.iter().map(|worker| if takes(worker) { floor(worker) } else { 0 }).collect();
    trim(&mut counts, micros);
    let mut left = micros - counts.iter().sum::<u64>();
    while left > 0 {
        let finish = |rank: usize| (counts[rank] + 1) as f64 / workers[rank].speed;
        let open = (0..workers.len()).filter(|&rank| counts[rank] < room(&workers[rank]));
        let Some(rank) = open.min_by(|&a, &b| finish(a).total_cmp(&finish(b))) else { break };
        counts[rank] += 1;
        left -= 1;
    }
    Ok(Shares::of(counts, workers, micros as f64 / total_speed))
}

/// Rounding up of products of huge numbers may have given away more than there is.
fn trim(counts: &mut [u64], micros: u64) {
    let mut over = counts.iter().sum::<u64>().saturating_sub(micros);
    for count in counts {
        let back = over.min(*count);
        *count -= back;
        over -= back;
    }
}

/// The division to use now: the present one, unless another is through earlier by more than `gain` (a share of the
/// time, such as 0.05) or the present one cannot be kept. So noise in the measured speeds moves nothing.
pub fn revise(present: &Shares, workers: &[Capacity], gain: f64) -> Result<Shares, NoRoom> {
    let micros = present.counts.iter().sum();
    let best = split(micros, workers)?;
    let fits = present.counts.len() == workers.len()
        && present.counts.iter().zip(workers).all(|(&count, worker)| {
            count == 0 || worker.speed > 0.0 && worker.most.is_none_or(|most| count <= most)
        });
    if !fits {
        return Ok(best);
    }
    let kept = Shares::of(present.counts.clone(), workers, best.ideal_s);
    Ok(if best.finish_s < kept.finish_s * (1.0 - gain) { best } else { kept })
}

/// Micro-batches by worker, where each of those that are `unsure` has one at least: whoever computes nothing is never
/// measured, and so would stay out for ever when a first measurement was bad. The busiest give them up.
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

/// A speed that follows its measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    /// Seconds per micro-batch.
    micro_s: f64,
    measured: u64,
}

impl Speed {
    /// Share of the newest measurement. Ten steps after a change 97 % of it is followed.
    const NEWEST: f64 = 0.3;

    /// A worker was busy for so long with so many micro-batches.
    pub fn observe(&mut self, micros: u64, busy_s: f64) {
        if micros == 0 || !(busy_s > 0.0 && busy_s.is_finite()) {
            return;
        }
        let micro_s = busy_s / micros as f64;
        // The first one has warmed caches up, so the second stands for itself.
        let newest = if self.measured < 2 { 1.0 } else { Self::NEWEST };
        self.micro_s += newest * (micro_s - self.micro_s);
        self.measured += 1;
    }

    /// The first measurement may have been of a device that was still warming up.
    pub fn is_sure(&self) -> bool {
        self.measured > 1
    }

    /// Micro-batches per second, once measured.
    pub fn per_s(&self) -> Option<f64> {
        (self.measured > 0).then(|| 1.0 / self.micro_s)
    }
}

impl Shares {
    fn of(counts: Vec<u64>, workers: &[Capacity], ideal_s: f64) -> Shares {
        let finish = |rank: usize| match counts[rank] {
            0 => 0.0,
            count => count as f64 / workers[rank].speed,
        };
        let slowest = (0..counts.len())
            .filter(|&rank| counts[rank] > 0)
            .reduce(|best, rank| if finish(rank) > finish(best) { rank } else { best });
        let finish_s = slowest.map_or(0.0, finish);
        Shares { finish_s, ideal_s, slowest, counts }
    }

    /// The share of the fleet's possible speed that this division reaches.
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

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} micro-batches do not fit: all workers together have room for {}",
            self.micros, self.room
        )
    }
}
