//! What each device of a fleet contributed to a run: its time, its money, and whether it lowers the price of
//! tokens.

use crate::table::{column, table};
use crate::terminal::{amount, count};
use lingot_spec::event::{DeviceSeconds, Ledger};
use lingot_train::record::ledger::money_without;
use serde::Serialize;

/// One device of a fleet; `docs/json.md` documents the keys.
#[derive(Serialize)]
pub struct Contribution {
    device: String,
    tokens: u64,
    compute_s: f64,
    exchange_s: f64,
    waiting_s: f64,
    /// Seconds that it was part of the fleet.
    seconds: f64,
    money: Option<f64>,
    /// Share of its money that was paid while it waited.
    waiting_share: f64,
    /// Price of a million tokens of the whole fleet.
    money_per_million_tokens: Option<f64>,
    /// The same of the fleet without this device, predicted from the speeds of the others.
    money_per_million_tokens_without: Option<f64>,
    earns_its_keep: Option<bool>,
}

/// One entry for each device of a fleet; none for a single device, or where no tokens were counted by device.
pub fn contributions(ledger: &Ledger) -> Vec<Contribution> {
    if ledger.devices.len() < 2 || ledger.devices.iter().all(|device| device.tokens == 0) {
        return Vec::new();
    }
    let with = ledger.money_per_million_tokens;
    let of_device = |(index, device): (usize, &DeviceSeconds)| {
        let without = money_without(ledger, index);
        Contribution {
            device: device.device.clone(),
            tokens: device.tokens,
            compute_s: device.compute_s,
            exchange_s: device.exchange_s,
            waiting_s: device.idle_s,
            seconds: device.seconds(),
            money: device.money,
            waiting_share: device.idle_s / device.seconds().max(1e-12),
            money_per_million_tokens: with,
            money_per_million_tokens_without: without,
            earns_its_keep: with.zip(without).map(|(with, without)| with < without),
        }
    };
    ledger.devices.iter().enumerate().map(of_device).collect()
}

/// A table with one row for each device, and the share of all money that was paid for waiting.
pub fn text(devices: &[Contribution], currency: Option<&str>) -> String {
    let currency = currency.unwrap_or_default();
    let share =
        |part: f64, device: &Contribution| format!("{:.1} %", 100.0 * part / device.seconds.max(1e-12));
    let money = |money: Option<f64>| money.map_or_else(|| "-".into(), amount);
    let mut text = table(&[
        column("device", devices, |device| device.device.clone()),
        column("tokens", devices, |device| count(device.tokens as f64)),
        column("computing", devices, |device| share(device.compute_s, device)),
        column("exchanging", devices, |device| share(device.exchange_s, device)),
        column("waiting", devices, |device| share(device.waiting_s, device)),
        column("money", devices, |device| money(device.money)),
        column("per M tokens without it", devices, |device| money(device.money_per_million_tokens_without)),
        column("worth its price", devices, |device| {
            device.earns_its_keep.map_or("-", |earns| if earns { "yes" } else { "no" }).into()
        }),
    ]);
    let spent: Option<f64> = devices.iter().map(|device| device.money).sum();
    if let Some(spent) = spent.filter(|spent| *spent > 0.0) {
        let waiting: f64 =
            devices.iter().filter_map(|device| Some(device.money? * device.waiting_share)).sum();
        text += &format!(
            "waiting cost {} of {} {currency}, {:.1} %\n",
            amount(waiting),
            amount(spent),
            100.0 * waiting / spent
        );
    }
    text
}
