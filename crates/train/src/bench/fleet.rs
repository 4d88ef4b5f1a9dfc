//! A fleet against the sum of its devices: each trains alone, then all together, in turns.

use super::Spread;
use crate::config;
use crate::error::{Error, Result};
use crate::fleet::{Opener, entry};
use crate::{step, worker};
use lingot_spec::event::Event;
use lingot_sync::shares::{Capacity, split};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Steps of a fleet that are not timed: speeds are not known yet.
const WARMUP_STEPS: u64 = 4;

/// Steps of a device alone, of which the first is not timed. They are long, and the slowest device's are the longest.
const ALONE_STEPS: u64 = 3;

/// Micro-batches of a step: enough that whole ones can follow the speeds.
const MICROS: u64 = 112;

const RUN: &str = "
[model]
preset = \"toy\"
[data]
sequence = 128
[batch]
micro = 1
sequences = 112
[checkpoint]
every = 0
[evaluation]
every = 0
sequences = 1
";

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Request {
    /// Entries of `devices`.
    pub devices: Vec<String>,
    /// Every device and the fleet take so many turns.
    pub rounds: usize,
    /// Timed steps of a turn.
    pub steps: u64,
    /// CPU threads that are divided among the devices; 0 for all.
    pub threads: usize,
}

/// What was measured. The object of `lingot bench fleet --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub devices: Vec<Alone>,
    /// Tokens per second of all together, by turn.
    pub fleet_tokens_per_s: Spread,
    /// The sum of the devices' medians.
    pub sum_tokens_per_s: f64,
    /// The fleet's speed over that sum, by turn; the median counts.
    pub efficiency: Spread,
    /// What whole micro-batches, divided by these speeds, allow.
    pub predicted_efficiency: f64,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct Alone {
    pub device: String,
    pub tokens_per_s: Spread,
}

/// Measures.
pub fn measure(request: &Request) -> Result<Report> {
    let folder = std::env::temp_dir().join(format!("lingot-bench-fleet-{}", std::process::id()));
    let report = measure_in(&folder, request);
    // It holds nothing but what was made for the measurement.
    let _ = std::fs::remove_dir_all(&folder);
    report
}

fn measure_in(folder: &Path, request: &Request) -> Result<Report> {
    let text = write_text(folder)?;
    let entries = entry::parse_all(&request.devices)?;
    if entries.is_empty() {
        return Err(Error::new("there is no device to measure", "name some, such as --device cpu@1,cpu@0.5"));
    }
    let resolved = resolve(folder, &text, &request.devices, request, 1)?;
    // One for all turns: a device alone has the cores that it has in the fleet.
    let open = entry::opener(&resolved.run, &entries);
    let mut alone: Vec<Vec<f64>> = vec![Vec::new(); entries.len()];
    let mut together = Vec::new();
    for round in 0..request.rounds {
        for (index, device) in request.devices.iter().enumerate() {
            let folder = folder.join(format!("{round}-{index}"));
            let resolved = resolve(&folder, &text, std::slice::from_ref(device), request, ALONE_STEPS)?;
            alone[index].push(tokens_per_s(&resolved, 1, &open)?);
        }
        let folder = folder.join(format!("{round}-all"));
        let steps = WARMUP_STEPS + request.steps.max(1);
        let resolved = resolve(&folder, &text, &request.devices, request, steps)?;
        together.push(tokens_per_s(&resolved, WARMUP_STEPS, &open)?);
    }
    let devices: Vec<Alone> = request
        .devices
        .iter()
        .zip(&alone)
        .map(|(device, speeds)| Alone { device: device.clone(), tokens_per_s: Spread::of(speeds.clone()) })
        .collect();
    let capacity = |alone: &Alone| Capacity { speed: alone.tokens_per_s.median, most: None };
    let capacities: Vec<Capacity> = devices.iter().map(capacity).collect();
    let predicted = split(MICROS, &capacities).map_err(|error| Error::new(error.to_string(), "report it"))?;
    let sum_tokens_per_s: f64 = capacities.iter().map(|capacity| capacity.speed).sum();
    let by_turn = together.iter().enumerate().map(|(round, fleet)| {
        let sum: f64 = alone.iter().map(|speeds| speeds[round]).sum();
        fleet / sum
    });
    let efficiency = Spread::of(by_turn.collect());
    let fleet_tokens_per_s = Spread::of(together);
    Ok(Report {
        devices,
        efficiency,
        fleet_tokens_per_s,
        sum_tokens_per_s,
        predicted_efficiency: predicted.efficiency(),
    })
}

/// One turn: the tokens of the steps after the first `warmup` over their time.
fn tokens_per_s(resolved: &config::Resolved, warmup: u64, open: &Opener) -> Result<f64> {
    let dataset = worker::prepare_data(&resolved.run, &|_| ())?;
    let mut marks = Vec::new();
    let mut listen = |event: &Event| {
        if let Event::Step(step) = event {
            marks.push((step.tokens, step.seconds));
        }
    };
    step::train_fleet(resolved, &dataset, open.clone(), &mut listen, &AtomicBool::new(false))?;
    let (first, last) = (marks[warmup as usize - 1], marks[marks.len() - 1]);
    Ok((last.0 - first.0) as f64 / (last.1 - first.1))
}

fn resolve(
    folder: &Path,
    text: &Path,
    devices: &[String],
    request: &Request,
    steps: u64,
) -> Result<config::Resolved> {
    let overrides = [
        format!("folder={:?}", folder.display().to_string()),
        format!("data.corpora=[{{ path = {:?} }}]", text.display().to_string()),
        format!("data.cache={:?}", text.with_file_name("data").display().to_string()),
        format!("devices={devices:?}"),
        format!("device.threads={}", request.threads),
        format!("stop.steps={steps}"),
    ];
    config::parse(RUN, Path::new("bench.toml"), &overrides)
}

/// Some text that a formula makes.
fn write_text(folder: &Path) -> Result<PathBuf> {
    const SYLLABLES: [&str; 16] =
        ["ka", "lo", "mi", "ter", "an", "su", "ri", "den", "po", "ga", "nel", "ti", "bor", "es", "vu", "hal"];
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as usize
    };
    let mut text = String::new();
    for word in 1..60_000 {
        (0..1 + next() % 3).for_each(|_| text += SYLLABLES[next() % 16 * (next() % 2)]);
        text += if word % 200 == 0 { "\n\n" } else { " " };
    }
    let path = folder.join("text.txt");
    std::fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, &error))?;
    std::fs::write(&path, text).map_err(|error| Error::io("write", &path, &error))?;
    Ok(path)
}
