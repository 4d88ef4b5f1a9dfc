//! Median and range of a figure that was measured several times.

use serde::Serialize;

/// Median and range.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least value.
    pub least: f64,
    /// The greatest value.
    pub most: f64,
}

impl Spread {
    /// Returns the spread of values in any order; NaN of none.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
        Spread { median: (at(low) + at(high)) / 2.0, least: at(0), most: at(values.len().saturating_sub(1)) }
    }
}
