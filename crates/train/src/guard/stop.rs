//! When a run ends, and why: a pure decision with its reason.

use lingot_spec::run::StopSpec;
use std::fmt;

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Time spent, all processes together.
    pub hours: f64,
    /// Money spent, when the run has a price.
    pub money: Option<f64>,
    /// The last held-out loss, once there is one.
    pub loss: Option<f64>,
}

/// The limit that was met, and the value that met it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StopReason {
    /// All steps are taken.
    Steps(u64),
    /// The limit on tokens.
    Tokens(Met<u64>),
    /// The limit on hours.
    Hours(Met<f64>),
    /// The limit on money.
    Money(Met<f64>),
    /// The target held-out loss.
    Loss(Met<f64>),
}

/// A limit, and the value that met it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Met<T> {
    /// The limit in RUN.toml.
    pub limit: T,
    /// Where the run is.
    pub reached: T,
}

/// Returns the first limit that is met. The target loss counts before the budgets: reaching it is success.
pub fn why_stop(spec: &StopSpec, at: &Progress) -> Option<StopReason> {
    let loss = spec.loss.zip(at.loss).filter(|(target, reached)| reached <= target);
    if let Some((limit, reached)) = loss {
        return Some(StopReason::Loss(Met { limit, reached }));
    }
    if at.step >= spec.steps {
        return Some(StopReason::Steps(spec.steps));
    }
    if let Some(limit) = spec.tokens.filter(|&limit| at.tokens >= limit) {
        return Some(StopReason::Tokens(Met { limit, reached: at.tokens }));
    }
    if let Some(limit) = spec.hours.filter(|&limit| at.hours >= limit) {
        return Some(StopReason::Hours(Met { limit, reached: at.hours }));
    }
    let money = spec.money.zip(at.money).filter(|(limit, reached)| reached >= limit);
    money.map(|(limit, reached)| StopReason::Money(Met { limit, reached }))
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Steps(limit) => write!(f, "all {limit} steps are done"),
            StopReason::Tokens(Met { limit, reached }) => {
                write!(f, "{reached} tokens reach the limit of {limit}")
            }
            StopReason::Hours(Met { limit, reached }) => {
                write!(f, "{reached:.3} hours reach the limit of {limit}")
            }
            StopReason::Money(Met { limit, reached }) => {
                write!(f, "{reached:.4} spent reaches the limit of {limit}")
            }
            StopReason::Loss(Met { limit, reached }) => {
                write!(f, "held-out loss {reached:.4} reaches the target of {limit}")
            }
        }
    }
}
