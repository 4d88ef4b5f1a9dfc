//! The devices of a fleet in `lingot ledger`: what each did, what waiting cost, and whether it earns its keep.

use crate::ledger::table;
use crate::terminal::{amount, count};
use lingot_spec::event::{DeviceSeconds, Ledger};
use lingot_train::record::ledger::money_without;
use serde::Serialize;

/// One device of a fleet.
#[derive(Serialize)]
pub struct Keep {
    device: String,
    tokens: u64,
    compute_s: f64,
    exchange_s: f64,
    waiting_s: f64,
    /// While it was there.
    seconds: f64,
    money: Option<f64>,
    /// Of its money, what was paid while it waited.
    waiting_share: f64,
    /// Of the whole fleet.
    money_per_million_tokens: Option<f64>,
    /// And of the fleet without this device, as the speeds of the others foretell it.
    money_per_million_tokens_without: Option<f64>,
    earns_its_keep: Option<bool>,
}

/// The devices of a run; none where there is one, or nobody counted their tokens.
pub fn keeps(ledger: &Ledger) -> Vec<Keep> {
    if ledger.devices.len() < 2 || ledger.devices.iter().all(|device| device.tokens == 0) {
        return Vec::new();
    }
    let with = ledger.money_per_million_tokens;
    let keep = |(index, device): (usize, &DeviceSeconds)| {
        let without = money_without(ledger, index);
        Keep {
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
    ledger.devices.iter().enumerate().map(keep).collect()
}

/// A table with a row for each device, and the share of all money that waiting took.
pub fn text(keeps: &[Keep], currency: Option<&str>) -> String {
    let currency = currency.unwrap_or_default();
    let column = |name: &str, cell: &dyn Fn(&Keep) -> String| {
        std::iter::once(name.to_owned()).chain(keeps.iter().map(cell)).collect::<Vec<String>>()
    };
    let share = |part: f64, keep: &Keep| format!("{:.1} %", 100.0 * part / keep.seconds.max(1e-12));
    let money = |money: Option<f64>| money.map_or_else(|| "-".into(), amount);
    let mut text = table(&[
        column("device", &|keep| keep.device.clone()),
        column("tokens", &|keep| count(keep.tokens as f64)),
        column("computing", &|keep| share(keep.compute_s, keep)),
        column("exchanging", &|keep| share(keep.exchange_s, keep)),
        column("waiting", &|keep| share(keep.waiting_s, keep)),
        column("money", &|keep| money(keep.money)),
        column("per M tokens without it", &|keep| money(keep.money_per_million_tokens_without)),
        column("earns its keep", &|keep| {
            keep.earns_its_keep.map_or("-", |earns| if earns { "yes" } else { "no" }).into()
        }),
    ]);
    let spent: Option<f64> = keeps.iter().map(|keep| keep.money).sum();
    if let Some(spent) = spent.filter(|spent| *spent > 0.0) {
        let waiting: f64 = keeps.iter().filter_map(|keep| Some(keep.money? * keep.waiting_share)).sum();
        text += &format!(
            "waiting took {} of {} {currency}, {:.1} %\n",
            amount(waiting),
            amount(spent),
            100.0 * waiting / spent
        );
    }
    text
}
