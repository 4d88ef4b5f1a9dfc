//! A device that slows down midway: how many steps it takes until the shares follow.

use super::{Slowdown, micros, train};
use lingot_device::Device;
use lingot_device::entry::Opener;
use lingot_device::throttled::{Controls, Fault, Throttle, Throttled};
use lingot_spec::Result;
use lingot_spec::event::{Event, Exchange};
use lingot_sync::shares::{Capacity, Shares, split};
use lingot_train::config::Resolved;
use std::sync::{Arc, Mutex};

/// The first device's speed after the slowdown, as a share of its speed before.
const LEFT: f64 = 1.0 / 3.0;

/// A division is good enough where no other is faster by more than this share.
const GOOD: f64 = 0.05;

/// Trains on the run's devices, the first of which is slowed down after `at` steps.
pub(crate) fn measure(resolved: &Resolved, at: u64, open: &Opener) -> Result<Slowdown> {
    let first = resolved.run.devices[0].clone();
    let controls: Arc<Mutex<Option<Controls>>> = Arc::default();
    let (inner, held, name) = (open.clone(), controls.clone(), first.clone());
    let opener: Opener = Arc::new(move |entry| {
        let device = inner(entry)?;
        if entry != name {
            return Ok(device);
        }
        let (device, controls) = Throttled::new(device, entry, Throttle::default());
        *held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(controls);
        Ok(Device::new(device))
    });
    let mut exchanges = Vec::new();
    let mut listen = |event: &Event| match event {
        Event::Exchange(exchange) => exchanges.push(exchange.clone()),
        Event::Step(step) if step.step == at => {
            let controls = controls.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            controls.iter().for_each(|controls| controls.set(Fault::Slows(LEFT)));
        }
        _ => {}
    };
    train(resolved, &opener, &mut listen)?;
    Ok(report(first, &exchanges, at as usize, u64::from(resolved.run.batch.sequences)))
}

fn report(device: String, exchanges: &[Exchange], at: usize, whole: u64) -> Slowdown {
    let (before, after) = exchanges.split_at(at);
    // The new speeds are those of the later half of the steps.
    let settled = &after[after.len() / 2..];
    let micro_s = |worker: usize| {
        let busy_s: f64 = settled.iter().map(|exchange| exchange.workers[worker].busy_s).sum();
        busy_s / micros(settled, worker) as f64
    };
    let workers = after[0].workers.len();
    let micro_s: Vec<f64> = (0..workers).map(micro_s).collect();
    let capacities: Vec<Capacity> =
        micro_s.iter().map(|micro_s| Capacity { micros_per_s: 1.0 / micro_s, most: None }).collect();
    let best_s = split(whole, &capacities).map_or(f64::NAN, |shares: Shares| shares.finish_s);
    let over_best = |exchange: &Exchange| {
        let step = std::slice::from_ref(exchange);
        let finish_s = (0..workers).map(|worker| micros(step, worker) as f64 * micro_s[worker]);
        finish_s.fold(0.0, f64::max) / best_s
    };
    let over_best: Vec<f64> = after.iter().map(over_best).collect();
    let all: usize = (0..workers).map(|worker| micros(exchanges, worker)).sum();
    let share = |step: &Exchange| micros(std::slice::from_ref(step), 0) as f64 / whole as f64;
    Slowdown {
        device,
        steps_to_recover: over_best
            .iter()
            .rposition(|&over| over > 1.0 + GOOD)
            .map_or(0, |last| last as u64 + 1),
        share_before: before.last().map_or(f64::NAN, share),
        share_after: after.last().map_or(f64::NAN, share),
        over_best,
        computed_share: all as f64 / (whole as usize * exchanges.len()) as f64,
    }
}
