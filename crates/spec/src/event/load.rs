//! How evenly the tokens of a layer were spread over its experts.

use super::number;
use serde::{Deserialize, Serialize};

/// The load of one layer's experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertLoad {
    /// Number of the layer, from 0; the multi-token-prediction layer comes after the last.
    pub layer: u32,
    /// The busiest expert's tokens over the mean; 1 when even.
    #[serde(deserialize_with = "number")]
    pub max_over_mean: f64,
    /// The least busy expert's tokens over the mean; 1 when even.
    #[serde(deserialize_with = "number")]
    pub min_over_mean: f64,
    /// Share of the experts that no token visited, 0 to 1.
    #[serde(deserialize_with = "number")]
    pub idle_share: f64,
    /// Entropy of the load over its largest possible value, the logarithm of the number of experts; 1 when
    /// even.
    #[serde(deserialize_with = "number")]
    pub entropy: f64,
}

impl ExpertLoad {
    /// The load of a layer whose experts received `counts` tokens; an even one if there were no tokens.
    pub fn from_counts(layer: u32, counts: &[u64]) -> ExpertLoad {
        let total: u64 = counts.iter().sum();
        let experts = counts.len() as f64;
        if total == 0 {
            return ExpertLoad {
                layer,
                max_over_mean: 1.0,
                min_over_mean: 1.0,
                idle_share: 0.0,
                entropy: 1.0,
            };
        }
        let mean = total as f64 / experts;
        let largest = counts.iter().copied().max().unwrap_or(0) as f64;
        let smallest = counts.iter().copied().min().unwrap_or(0) as f64;
        let idle = counts.iter().filter(|&&count| count == 0).count() as f64;
        let entropy: f64 = counts
            .iter()
            .filter(|&&count| count > 0)
            .map(|&count| count as f64 / total as f64)
            .map(|share| -share * share.ln())
            .sum();
        let entropy = if counts.len() > 1 { entropy / experts.ln() } else { 1.0 };
        ExpertLoad {
            layer,
            max_over_mean: largest / mean,
            min_over_mean: smallest / mean,
            idle_share: idle / experts,
            entropy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_load_has_ratios_of_one() {
        let load = ExpertLoad::from_counts(3, &[5, 5, 5, 5]);
        assert_eq!((load.max_over_mean, load.min_over_mean, load.idle_share), (1.0, 1.0, 0.0));
        assert!((load.entropy - 1.0).abs() < 1e-12);
        assert_eq!(ExpertLoad::from_counts(3, &[0, 0]).entropy, 1.0);
    }

    #[test]
    fn a_load_on_one_expert_has_no_entropy() {
        let load = ExpertLoad::from_counts(0, &[0, 8, 0, 0]);
        assert_eq!((load.max_over_mean, load.min_over_mean, load.idle_share), (4.0, 0.0, 0.75));
        assert_eq!(load.entropy, 0.0);
    }
}
