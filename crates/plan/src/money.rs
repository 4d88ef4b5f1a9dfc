//! Money of one currency, and the given rates between currencies. No rate is ever assumed.

use crate::validate::positive;
use lingot_spec::problem::{Problem, Result};
use serde::{Deserialize, Serialize};

/// An amount in a currency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Units of the currency.
    pub amount: f64,
    /// As ISO 4217 writes it, or any other word used consistently.
    pub currency: String,
}

/// An exchange rate: one unit of `from` buys `rate` units of `to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The currency that is sold.
    pub from: String,
    /// The currency that is bought.
    pub to: String,
    /// Units of `to` for one of `from`.
    pub rate: f64,
}

impl Money {
    /// Returns the same value in another currency, by a direct rate or the inverse of one.
    ///
    /// Errors if no rate between the two is given.
    pub fn exchanged(&self, currency: &str, rates: &[Rate]) -> Result<Money> {
        let amount = if self.currency == currency {
            self.amount
        } else if let Some(rate) = rates.iter().find(|rate| rate.from == self.currency && rate.to == currency)
        {
            self.amount * rate.rate
        } else if let Some(rate) = rates.iter().find(|rate| rate.to == self.currency && rate.from == currency)
        {
            self.amount / rate.rate
        } else {
            return Err(Problem::new(
                format!("a price is in {} but the plan in {currency}, and no rate is given", self.currency),
                format!("add [[rates]] with from = \"{}\", to = \"{currency}\" and rate", self.currency),
            ));
        };
        Ok(Money { amount, currency: currency.to_owned() })
    }
}

/// Two rates between the same currencies may differ by this share, as buying and selling rates do.
const RATE_SPREAD: f64 = 0.02;

/// Errors if a rate is not positive, or if two of them contradict each other.
pub(crate) fn check_rates(rates: &[Rate]) -> Result<()> {
    for (at, rate) in rates.iter().enumerate() {
        positive("rate", rate.rate)?;
        for earlier in &rates[..at] {
            let known = match (&earlier.from, &earlier.to) {
                (from, to) if (from, to) == (&rate.from, &rate.to) => earlier.rate,
                (from, to) if (from, to) == (&rate.to, &rate.from) => 1.0 / earlier.rate,
                _ => continue,
            };
            if (rate.rate / known - 1.0).abs() > RATE_SPREAD {
                return Err(contradiction(rate, known));
            }
        }
    }
    Ok(())
}

fn contradiction(rate: &Rate, known: f64) -> Problem {
    let Rate { from, to, rate } = rate;
    Problem::new(
        format!(
            "rates contradict each other: 1 {from} is {rate} {to} by one entry, and {known} {to} by another"
        ),
        "keep one [[rates]] entry for each pair of currencies",
    )
}
