//! What a run has cost so far: seconds of all processes together, and their price.

use std::time::Instant;

/// The clock and the price of a run.
pub(crate) struct Meter {
    /// Spent by earlier processes.
    pub(crate) before_s: f64,
    /// When this process began.
    pub(crate) since: Instant,
    /// The price of all devices that compute now; none where some device has no price.
    per_hour: Option<f64>,
    /// What was spent when the price became the present one.
    paid_money: f64,
    paid_s: f64,
}

/// Seconds and money by one reading of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    /// None where the run has no price.
    pub(crate) money: Option<f64>,
}

impl Meter {
    /// Starts the clock, without a price yet.
    pub(crate) fn begin() -> Meter {
        Meter { before_s: 0.0, since: Instant::now(), per_hour: None, paid_money: 0.0, paid_s: 0.0 }
    }

    /// Reads the clock.
    pub(crate) fn spent(&self) -> Spent {
        let seconds = self.before_s + self.since.elapsed().as_secs_f64();
        let money =
            self.per_hour.map(|per_hour| self.paid_money + per_hour * (seconds - self.paid_s) / 3600.0);
        Spent { seconds, money }
    }

    /// Sets the price of the whole run, its seconds so far included.
    pub(crate) fn price(&mut self, per_hour: Option<f64>) {
        self.per_hour = per_hour;
    }

    /// Changes the price from now on; the seconds so far stay paid at the price before.
    pub(crate) fn reprice(&mut self, per_hour: Option<f64>) {
        let spent = self.spent();
        if let Some(money) = spent.money {
            (self.paid_money, self.paid_s) = (money, spent.seconds);
        }
        self.per_hour = per_hour;
    }
}
