//! The pseudo-gradient penalty: the weight of each worker's change of a layer, and why.
//!
//! A change ("pseudo-gradient") is `agreed - own` after a number of steps that a worker took alone. Large
//! ones are suspicious: they come from bad data or a bad device. Source: EDiT (arXiv 2412.07210) and its
//! released code in atorch, `FSDP/core/_runtime_utils.py`, `utils/anomaly_detection.py` and
//! `utils/reduce_methods`.

use lingot_spec::run::PenaltySpec;
use std::collections::VecDeque;
use std::fmt;

/// Returns the length of the window of z-scores: as in the released code, that of the warmup in meetings.
fn window_length(spec: &PenaltySpec) -> usize {
    spec.warmup_meetings.max(2) as usize
}

/// The smallest deviation, as a share of the mean: sound workers' norms differ by about as much from their
/// median.
const LEAST_DEVIATION: f64 = 0.02;

/// Deviations above the mean that are learnt in full. A larger norm is learnt as if it were here: otherwise
/// every meeting at which a bad worker is not recognised would raise its limit, until it is never an outlier
/// again.
const LEARNT_ABOVE: f64 = 1.0;

/// The moving statistics of one worker's norms of one group. In f32, which is what a checkpoint holds: a
/// resumed run must see the same numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detector {
    /// Norms learnt.
    pub meetings: u64,
    /// Moving mean.
    pub mean: f32,
    /// Moving variance, the square of the deviation.
    pub variance: f32,
    /// The latest z-scores.
    pub window: VecDeque<f32>,
}

/// A detector's judgement of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The norm is as usual.
    Normal {
        /// Its z-score, 0 while norms are not judged.
        z: f64,
    },
    /// The norm is not a finite number.
    NotFinite,
    /// The norm is unusually large: `z > limit`.
    Outlier {
        /// The norm that was judged, in proportion to the median of all workers.
        norm: f64,
        /// Its z-score.
        z: f64,
        /// The largest z-score that is normal.
        limit: f64,
    },
}

/// How the changes of one group are combined.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighing {
    /// The weight of each worker's change, by rank; they sum to 1, or are all 0.
    pub weights: Vec<f32>,
    /// The judgement of each worker's norm, by rank.
    pub verdicts: Vec<Verdict>,
    /// Whether all workers are anomalies: then nothing is applied, and all return to what was agreed last.
    pub all_anomalous: bool,
}

impl Detector {
    /// Judges a norm, then learns from it unless it is an anomaly.
    ///
    /// ```text
    /// z = (x - mean) / max(deviation, 0.02 mean)
    /// outlier if z > threshold * max(1, deviation of the z in the window)
    /// d = x - mean;  mean += a d;  variance = (1 - a) (variance + a d (x - mean))
    /// ```
    ///
    /// Two things are ours: the smallest deviation, because that of few norms is often far too small and
    /// makes sound workers outliers; and that, once norms are judged, at most one deviation above the mean is
    /// learnt. The recursion is the released one. As in its DDP code, and unlike its FSDP code, an outlier is
    /// not learnt, so that a worker that stays bad stays out. Unlike both, the statistics start from the
    /// first norm and not from 0: from 0, and with a = 0.02, the mean would be 18 % of a constant norm after
    /// ten meetings.
    pub fn judge(&mut self, norm: f64, spec: &PenaltySpec) -> Verdict {
        if !norm.is_finite() {
            return Verdict::NotFinite;
        }
        let (mean, deviation) = (f64::from(self.mean), f64::from(self.variance).sqrt());
        let judged = self.meetings >= spec.warmup_meetings.max(1);
        let unit = deviation.max(LEAST_DEVIATION * mean).max(f64::MIN_POSITIVE);
        let z = if judged { (norm - mean) / unit } else { 0.0 };
        let limit = spec.threshold * spread(&self.window).max(1.0);
        if judged && z > limit {
            return Verdict::Outlier { norm, z, limit };
        }
        if z > LEARNT_ABOVE {
            self.learn(mean + LEARNT_ABOVE * unit, LEARNT_ABOVE, spec);
        } else {
            self.learn(norm, z, spec);
        }
        Verdict::Normal { z }
    }

    fn learn(&mut self, norm: f64, z: f64, spec: &PenaltySpec) {
        let newest = spec.newest;
        if self.meetings == 0 {
            self.mean = norm as f32;
        } else {
            let before = norm - f64::from(self.mean);
            let after = (1.0 - newest) * before;
            self.mean = (norm - after) as f32;
            self.variance = ((1.0 - newest) * (f64::from(self.variance) + newest * before * after)) as f32;
        }
        self.meetings += 1;
        self.window.push_back(z as f32);
        if self.window.len() > window_length(spec) {
            self.window.pop_front();
        }
    }

    /// Returns the statistics as numbers, for a checkpoint; [`Detector::from_numbers`] reads them.
    pub fn to_numbers(&self) -> Vec<f32> {
        let mut numbers = vec![self.meetings as f32, self.mean, self.variance];
        numbers.extend(&self.window);
        numbers
    }

    /// Reads what [`Detector::to_numbers`] returned; `None` if numbers are missing.
    pub fn from_numbers(numbers: &[f32]) -> Option<Detector> {
        let [meetings, mean, variance, window @ ..] = numbers else { return None };
        let (meetings, window) = (*meetings as u64, window.iter().copied().collect());
        Some(Detector { meetings, mean: *mean, variance: *variance, window })
    }
}

/// Returns the weight of each worker's change of one group, from all workers' norms:
/// `softmax(-norm / temperature)` over those that are no anomaly. Without the penalty all weights are equal.
/// `detectors` has one entry per rank.
///
/// Unlike the released code, a norm is judged in proportion to the median of all workers' at this meeting.
/// All norms follow the learning rate, so a worker's own past is a poor measure: one that read random tokens
/// had norms only 3 to 32 % above the others', while everybody's fell to a tenth within the run. A worker at
/// or below the median is no anomaly.
pub fn weigh(norms: &[f64], detectors: &mut [Detector], spec: &PenaltySpec) -> Weighing {
    if !spec.enabled {
        let weights = vec![1.0 / norms.len() as f32; norms.len()];
        return Weighing {
            weights,
            verdicts: vec![Verdict::Normal { z: 0.0 }; norms.len()],
            all_anomalous: false,
        };
    }
    let usual = median(norms).max(f64::MIN_POSITIVE);
    let judge = |(&norm, detector): (&f64, &mut Detector)| match detector.judge(norm / usual, spec) {
        // A straggler that takes one step more than last time stands out from its own past without being
        // large.
        Verdict::Outlier { norm, z, .. } if norm <= 1.0 => Verdict::Normal { z },
        verdict => verdict,
    };
    let verdicts: Vec<Verdict> = norms.iter().zip(detectors).map(judge).collect();
    let counts = |rank: usize| !verdicts[rank].is_anomaly();
    let weights = softmax(norms, counts, spec.temperature);
    Weighing { all_anomalous: weights.iter().all(|&weight| weight == 0.0), weights, verdicts }
}

/// Returns `softmax(-norm / temperature)` over the ranks that count, and 0 for the others.
fn softmax(norms: &[f64], counts: impl Fn(usize) -> bool, temperature: f64) -> Vec<f32> {
    let kept = || norms.iter().enumerate().filter(|(rank, _)| counts(*rank));
    let least = kept().fold(f64::INFINITY, |least, (_, &norm)| least.min(norm));
    let share = |norm: f64| ((least - norm) / temperature).exp();
    let total: f64 = kept().map(|(_, &norm)| share(norm)).sum();
    let weight = |(rank, &norm): (usize, &f64)| if counts(rank) { (share(norm) / total) as f32 } else { 0.0 };
    norms.iter().enumerate().map(weight).collect()
}

/// Groups in which a worker must be an anomaly to count in none: then what it read or computed is bad, not
/// one layer.
const GROUPS_OF_A_BAD_WORKER: usize = 2;

/// Norm, in medians, below which an outlier in a single group counts nevertheless. Sound workers had heads up
/// to 1.15 times the median for many meetings in a row, and final norms up to 1.13 times by chance, but
/// nothing else above 1.04.
const FAR_OUT: f64 = 2.0;

/// Corrects the weights of one meeting by looking at all its groups together: a worker that is an anomaly in
/// several groups counts in none, and one that stands out a little in a single group counts there after all.
/// One weighing and all workers' norms per group.
pub fn leave_out(weighings: &mut [Weighing], norms: &[Vec<f64>], spec: &PenaltySpec) {
    let workers = norms.first().map_or(0, Vec::len);
    let needed = GROUPS_OF_A_BAD_WORKER.min(weighings.len());
    let anomalies =
        |rank: usize| weighings.iter().filter(|weighing| weighing.verdicts[rank].is_anomaly()).count();
    let is_bad: Vec<bool> = (0..workers).map(|rank| anomalies(rank) >= needed).collect();
    for (weighing, norms) in weighings.iter_mut().zip(norms) {
        for (verdict, _) in weighing.verdicts.iter_mut().zip(&is_bad).filter(|(_, is_bad)| !**is_bad) {
            if let Verdict::Outlier { norm, z, .. } = *verdict
                && norm < FAR_OUT
            {
                *verdict = Verdict::Normal { z };
            }
        }
        let counts = |rank: usize| !is_bad[rank] && !weighing.verdicts[rank].is_anomaly();
        weighing.weights = softmax(norms, counts, spec.temperature);
        weighing.all_anomalous = weighing.weights.iter().all(|&weight| weight == 0.0);
    }
}

/// Returns the factor that scales a mean change of this norm to at most `clip`:
/// `min(1, clip / (norm + 1e-6))`, and 1 if `clip` is 0.
pub fn clip_factor(norm: f64, clip: f64) -> f32 {
    if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}

impl Verdict {
    /// Whether the worker's change is left out.
    pub fn is_anomaly(&self) -> bool {
        !matches!(self, Verdict::Normal { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Normal { z } => write!(f, "normal, z {z:.2}"),
            Verdict::NotFinite => write!(f, "its norm is not a finite number"),
            Verdict::Outlier { norm, z, limit } => {
                write!(f, "its norm, {norm:.4} of the median, is an outlier: z {z:.2} is above {limit:.2}")
            }
        }
    }
}

/// Returns the median of the finite norms: of an even number the mean of the two in the middle, 0 of none.
fn median(norms: &[f64]) -> f64 {
    let mut norms: Vec<f64> = norms.iter().copied().filter(|norm| norm.is_finite()).collect();
    norms.sort_by(f64::total_cmp);
    match norms.len() {
        0 => 0.0,
        count => (norms[(count - 1) / 2] + norms[count / 2]) / 2.0,
    }
}

/// Returns the standard deviation, 0 of no values.
fn spread(values: &VecDeque<f32>) -> f64 {
    let values: Vec<f64> = values.iter().copied().map(f64::from).collect();
    let count = values.len() as f64;
    if values.is_empty() {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|z| (z - mean) * (z - mean)).sum::<f64>() / count).sqrt()
}
