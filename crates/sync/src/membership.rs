//! Who takes part: workers leave at once, and join at boundaries. A state machine; the clock is the caller's.

use lingot_spec::Problem;
use std::fmt;

/// Where a worker stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It is known, and has not said yet that it is ready.
    Expected,
    /// It takes part.
    Active,
    /// It takes part from the next boundary on.
    Joining,
    /// It does not take part, for this reason.
    Gone(Leave),
}

/// Why a worker left.
#[derive(Clone, Debug, PartialEq)]
pub enum Leave {
    /// It reported a problem, or what it reported shows one.
    Failed {
        /// Steps of the run taken before.
        step: u64,
        /// What is wrong with it.
        problem: Problem,
    },
    /// It did not report in time.
    Hung {
        /// Steps of the run taken before.
        step: u64,
        /// How long it was silent.
        silent_s: f64,
        /// How long it was allowed to be.
        deadline_s: f64,
    },
    /// It was taken out of the run's file.
    Removed {
        /// Steps of the run taken before.
        step: u64,
    },
}

/// What happened, for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A worker left.
    Left {
        /// Its number.
        worker: usize,
        /// Why.
        leave: Leave,
    },
    /// A worker asks to join.
    Announced {
        /// Its number.
        worker: usize,
    },
    /// A worker takes part from now on.
    Joined {
        /// Its number.
        worker: usize,
        /// Steps of the run taken before.
        step: u64,
    },
}

/// No worker is left.
#[derive(Clone, Debug, PartialEq)]
pub struct AllLost {
    /// Every worker with its reason, by number.
    pub lost: Vec<Lost>,
}

/// A worker that left, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// Its number.
    pub worker: usize,
    /// The reason.
    pub leave: Leave,
}

/// All workers that ever took part, by number. Numbers are never used again.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Membership {
    standings: Vec<Standing>,
}

impl Membership {
    /// A number of workers, all active.
    pub fn new(workers: usize) -> Membership {
        Membership { standings: vec![Standing::Active; workers] }
    }

    /// Where a worker stands; none for a number that no worker has.
    pub fn standing(&self, worker: usize) -> Option<&Standing> {
        self.standings.get(worker)
    }

    /// The workers that take part, in the order of their numbers: the order of every sum.
    pub fn active(&self) -> Vec<usize> {
        (0..self.standings.len()).filter(|&worker| self.standings[worker] == Standing::Active).collect()
    }

    /// Lets a worker leave at once; nothing happens to one that is gone already. Errors if no worker is left.
    pub fn leave(&mut self, worker: usize, leave: Leave) -> Result<Option<Change>, AllLost> {
        match self.standings.get_mut(worker) {
            None | Some(Standing::Gone(_)) => return Ok(None),
            Some(standing) => *standing = Standing::Gone(leave.clone()),
        }
        let is_left = |standing: &Standing| !matches!(standing, Standing::Gone(_));
        if self.standings.iter().any(is_left) {
            return Ok(Some(Change::Left { worker, leave }));
        }
        let lost = |(worker, standing): (usize, &Standing)| match standing {
            Standing::Gone(leave) => Some(Lost { worker, leave: leave.clone() }),
            _ => None,
        };
        Err(AllLost { lost: self.standings.iter().enumerate().filter_map(lost).collect() })
    }

    /// Returns the number of a new worker, which will ask to join.
    pub fn expect_new(&mut self) -> usize {
        self.standings.push(Standing::Expected);
        self.standings.len() - 1
    }

    /// Expects a worker that left to ask to join again.
    pub fn expect(&mut self, worker: usize) {
        if let Some(standing @ Standing::Gone(_)) = self.standings.get_mut(worker) {
            *standing = Standing::Expected;
        }
    }

    /// Lets a worker ask to join that is new, or that left and has recovered.
    pub fn announce(&mut self, worker: usize) -> Option<Change> {
        match self.standings.get_mut(worker) {
            Some(standing @ (Standing::Gone(_) | Standing::Expected)) => {
                *standing = Standing::Joining;
                Some(Change::Announced { worker })
            }
            _ => None,
        }
    }

    /// Ends a step or meeting: workers that asked take part from now on, with the current weights.
    pub fn boundary(&mut self, step: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (worker, standing) in self.standings.iter_mut().enumerate() {
            if *standing == Standing::Joining {
                *standing = Standing::Active;
                changes.push(Change::Joined { worker, step });
            }
        }
        changes
    }
}

/// Returns how long a worker may be silent: `patience` times what its work should take, and at least
/// `least_s`.
pub fn deadline_s(expected_s: f64, patience: f64, least_s: f64) -> f64 {
    (expected_s * patience).max(least_s)
}

/// Returns why a worker has to leave that was silent for `silent_s`; none within its deadline.
pub fn overdue(step: u64, silent_s: f64, deadline_s: f64) -> Option<Leave> {
    (silent_s > deadline_s).then_some(Leave::Hung { step, silent_s, deadline_s })
}

impl Leave {
    /// Steps of the run taken before the worker left.
    pub fn step(&self) -> u64 {
        match self {
            Leave::Failed { step, .. } | Leave::Hung { step, .. } | Leave::Removed { step } => *step,
        }
    }
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leave::Failed { step, problem } => write!(f, "failed in step {step}: {}", problem.problem),
            Leave::Hung { step, silent_s, deadline_s } => {
                write!(f, "was silent for {silent_s:.3} s in step {step}, its deadline is {deadline_s:.3} s")
            }
            Leave::Removed { step } => write!(f, "was taken out of the run after step {step}"),
        }
    }
}

impl fmt::Display for AllLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.lost.iter().map(|Lost { worker, leave }| format!("worker {worker} {leave}"));
        write!(f, "all workers are lost: {}", lost.collect::<Vec<_>>().join("; "))
    }
}
