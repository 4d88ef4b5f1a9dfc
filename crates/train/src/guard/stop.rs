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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> StopSpec {
        StopSpec { steps: 10, tokens: Some(1000), hours: Some(1.0), money: Some(2.0), loss: Some(3.0) }
    }

    #[test]
    fn a_run_goes_on_while_no_limit_is_met() {
        let at = Progress { step: 9, tokens: 999, hours: 0.99, money: Some(1.99), loss: Some(3.01) };
        assert_eq!(why_stop(&spec(), &at), None);
        assert_eq!(why_stop(&spec(), &Progress::default()), None);
    }

    #[test]
    fn each_limit_stops_the_run_and_says_so() {
        let base = Progress::default();
        let cases = [
            (Progress { step: 10, ..base }, "all 10 steps are done"),
            (Progress { tokens: 1024, ..base }, "1024 tokens reach the limit of 1000"),
            (Progress { hours: 1.5, ..base }, "1.500 hours reach the limit of 1"),
            (Progress { money: Some(2.0), ..base }, "2.0000 spent reaches the limit of 2"),
            (Progress { loss: Some(2.5), ..base }, "held-out loss 2.5000 reaches the target of 3"),
        ];
        for (at, words) in cases {
            assert_eq!(why_stop(&spec(), &at).unwrap().to_string(), words);
        }
    }

    #[test]
    fn a_loss_that_is_not_a_number_reaches_no_target() {
        assert_eq!(why_stop(&spec(), &Progress { loss: Some(f64::NAN), ..Progress::default() }), None);
    }
}
