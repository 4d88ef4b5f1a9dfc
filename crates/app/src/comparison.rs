//! What a run was predicted to take, compared with what it took.

use crate::terminal::{amount, bytes, duration};
use lingot_spec::event::{DeviceSeconds, Event, Ledger, Prediction};
use serde::Serialize;

/// Predicted and actual figures of a run; `docs/json.md` documents the keys.
#[derive(Serialize)]
pub struct Comparison {
    /// The profile that it rests on, or `shapes alone`.
    pub from: String,
    pub step_s: Pair,
    pub seconds: Pair,
    pub memory_bytes: Pair,
    pub money: Pair,
    /// Sentences about what the prediction leaves out.
    pub missing: Vec<String>,
}

/// One figure; none where it was not predicted or not measured.
#[derive(Clone, Copy, Serialize)]
pub struct Pair {
    pub predicted: Option<f64>,
    pub actual: Option<f64>,
}

/// The newest ledger of a log.
pub fn newest_ledger(events: &[Event]) -> Option<&Ledger> {
    events.iter().rev().find_map(|event| if let Event::Ledger(ledger) = event { Some(ledger) } else { None })
}

/// Compares the newest prediction of a log with its newest ledger.
pub fn comparison(events: &[Event]) -> Option<Comparison> {
    let prediction: &Prediction = events.iter().rev().find_map(|event| match event {
        Event::Prediction(prediction) => Some(prediction),
        _ => None,
    })?;
    let ledger = newest_ledger(events)?;
    let largest = |of: fn(&DeviceSeconds) -> f64| {
        ledger.devices.iter().map(of).reduce(f64::max).filter(|&most| most > 0.0)
    };
    let steps = ledger.step as f64;
    let pair = |predicted: Option<f64>, actual: Option<f64>| Pair { predicted, actual };
    Some(Comparison {
        from: prediction.from.clone(),
        step_s: pair(
            prediction.step_s,
            largest(|device| device.compute_s + device.exchange_s).map(|all| all / steps),
        ),
        seconds: pair(prediction.seconds, Some(ledger.seconds)),
        memory_bytes: pair(
            prediction.memory_bytes.map(|bytes| bytes as f64),
            largest(|device| device.peak_memory_bytes as f64),
        ),
        money: pair(prediction.money, ledger.money),
        missing: prediction.missing.clone(),
    })
}

/// Shows a figure with its unit.
type Show<'a> = &'a dyn Fn(f64) -> String;

impl Comparison {
    /// One line for each predicted figure, and one for each thing that the prediction leaves out.
    pub fn text(&self, currency: Option<&str>) -> String {
        let currency = currency.unwrap_or_default();
        let mut text = format!("predicted by {}, compared with what it took\n", self.from);
        let time = |seconds: f64| if seconds < 10.0 { format!("{seconds:.4} s") } else { duration(seconds) };
        let rows: [(&str, Pair, Show<'_>); 4] = [
            ("one step", self.step_s, &time),
            ("whole run", self.seconds, &time),
            ("memory", self.memory_bytes, &|size| bytes(size as u64)),
            ("money", self.money, &|money| format!("{} {currency}", amount(money))),
        ];
        for (name, pair, show) in rows {
            if let (Some(predicted), Some(actual)) = (pair.predicted, pair.actual) {
                let error = (predicted / actual - 1.0) * 100.0;
                text +=
                    &format!("  {name:<12} {:>14} {:>14}  {error:+.1} %\n", show(predicted), show(actual));
            }
        }
        text.extend(self.missing.iter().map(|missing| format!("  {missing}\n")));
        text
    }
}
