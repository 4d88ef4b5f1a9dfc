//! Who takes part: workers leave at once, and join at boundaries. A state machine; the clock is the caller's.

use std::fmt;

/// Where a worker stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Is known by name and has not said yet that it is ready.
    Expected,
    /// Takes part.
    Active,
    /// Will take part from the next boundary on.
    Joining,
    /// Does not take part, and why.
    Gone(Leave),
}

/// Why a worker left.
#[derive(Clone, Debug, PartialEq)]
pub enum Leave {
    /// It said so itself, in these words.
    Failed { step: u64, reason: String },
    /// It did not answer in time.
    Hung { step: u64, silent_s: f64, deadline_s: f64 },
    /// It was taken out of the run's file.
    Removed { step: u64 },
}

/// What happened, for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Left { worker: usize, leave: Leave },
    Announced { worker: usize },
    Joined { worker: usize, step: u64 },
}

/// Nobody is left.
#[derive(Clone, Debug, PartialEq)]
pub struct AllLost {
    /// Of each worker.
    pub reasons: Vec<String>,
}

/// All workers that ever took part, by number. Numbers are never used again.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Membership {
    standings: Vec<Standing>,
}

impl Membership {
    /// So many workers, all active.
    pub fn new(workers: usize) -> Membership {
        Membership { standings: vec![Standing::Active; workers] }
    }

    pub fn standing(&self, worker: usize) -> Option<&Standing> {
        self.standings.get(worker)
    }

    /// Those that take part, in the order of their numbers: the order of every sum.
    pub fn active(&self) -> Vec<usize> {
        (0..self.standings.len()).filter(|&worker| self.standings[worker] == Standing::Active).collect()
    }

    /// A worker leaves at once. The error says that nobody is left. A worker that is gone already leaves no more.
    pub fn leave(&mut self, worker: usize, leave: Leave) -> Result<Option<Change>, AllLost> {
        match self.standings.get_mut(worker) {
            None | Some(Standing::Gone(_)) => return Ok(None),
            Some(standing) => *standing = Standing::Gone(leave.clone()),
        }
        let is_left = |standing: &Standing| !matches!(standing, Standing::Gone(_));
        if self.standings.iter().any(is_left) {
            return Ok(Some(Change::Left { worker, leave }));
        }
        let reason = |(worker, standing): (usize, &Standing)| match standing {
            Standing::Gone(leave) => format!("worker {worker} {leave}"),
            _ => format!("worker {worker} takes part"),
        };
        Err(AllLost { reasons: self.standings.iter().enumerate().map(reason).collect() })
    }

    /// A new worker, which will ask to join; its number.
    pub fn expect_new(&mut self) -> usize {
        self.standings.push(Standing::Expected);
        self.standings.len() - 1
    }

    /// One that left is wanted again, and will ask to join.
    pub fn expect(&mut self, worker: usize) {
        if let Some(standing @ Standing::Gone(_)) = self.standings.get_mut(worker) {
            *standing = Standing::Expected;
        }
    }

    /// A worker that is new, or that left and has recovered, asks to join.
    pub fn announce(&mut self, worker: usize) -> Option<Change> {
        match self.standings.get_mut(worker) {
            Some(standing @ (Standing::Gone(_) | Standing::Expected)) => {
                *standing = Standing::Joining;
                Some(Change::Announced { worker })
            }
            _ => None,
        }
    }

    /// A step or meeting is over: those who asked take part from now on, with the current weights.
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

/// How long a worker may be silent: `patience` times what its work should take, and at least `least_s`.
pub fn deadline_s(expected_s: f64, patience: f64, least_s: f64) -> f64 {
    (expected_s * patience).max(least_s)
}

/// Whether a worker that was silent for so long is to leave.
pub fn overdue(step: u64, silent_s: f64, deadline_s: f64) -> Option<Leave> {
    (silent_s > deadline_s).then_some(Leave::Hung { step, silent_s, deadline_s })
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leave::Failed { step, reason } => write!(f, "failed in step {step}: {reason}"),
            Leave::Hung { step, silent_s, deadline_s } => {
                write!(f, "was silent for {silent_s:.3} s in step {step}, its deadline is {deadline_s:.3} s")
            }
            Leave::Removed { step } => write!(f, "was taken out of the run after step {step}"),
        }
    }
}

impl fmt::Display for AllLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all workers are lost: {}", self.reasons.join("; "))
    }
}
