//! The speed of a fleet against the sum of its devices: each trains alone, then all together, in turns.

mod slowdown;

use crate::spread::Spread;
use lingot_device::entry::{self, Opener};
use lingot_spec::event::{Event, Exchange};
use lingot_spec::problem::{Problem, Result};
use lingot_train::config;
use lingot_train::{data, step};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Steps of a fleet that are not timed: speeds are not known yet.
const WARMUP_STEPS: u64 = 4;

/// Steps of a device alone, of which the first is not timed; few, since each takes longer than the fleet's.
const ALONE_STEPS: u64 = 3;

/// The step after which a device is slowed down.
const SLOWDOWN_AT: u64 = 8;

/// All steps of that run.
const SLOWDOWN_STEPS: u64 = 20;

/// Tokens of one micro-batch, which is one sequence.
pub const TOKENS_PER_MICRO: u32 = 128;

const RUN: &str = "
[model]
preset = \"toy\"
[data]
[batch]
micro = 1
[checkpoint]
every = 0
[evaluation]
every = 0
sequences = 1
";

/// What to measure.
#[derive(Clone, Debug)]
pub struct Request {
    /// The devices, as entries of `devices` of a run.
    pub devices: Vec<String>,
    /// Turns of each device and of the fleet.
    pub rounds: usize,
    /// Timed steps of a turn.
    pub steps: u64,
    /// CPU threads that are divided among the devices; 0 for all.
    pub threads: usize,
    /// Micro-batches of a step; the more there are, the better their division follows the speeds.
    pub micros: u64,
    /// Also slow the first device down midway.
    pub slows: bool,
}

/// The measured speed of a fleet. The object of `lingot bench fleet --json`, to which the program adds the
/// planner's prediction.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Micro-batches of a step.
    pub micros_per_step: u64,
    /// Each device alone.
    pub devices: Vec<Alone>,
    /// Tokens per second of the fleet, by turn.
    pub fleet_tokens_per_s: Spread,
    /// The sum of the devices' median tokens per second.
    pub sum_tokens_per_s: f64,
    /// The fleet's speed over that sum, by turn; the median counts.
    pub efficiency: Spread,
    /// Where the fleet's time goes.
    pub losses: Losses,
    /// What follows when a device slows down; none unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowdown: Option<Slowdown>,
}

/// One device alone.
#[derive(Clone, Debug, Serialize)]
pub struct Alone {
    /// Its entry.
    pub device: String,
    /// Tokens per second, by turn.
    pub tokens_per_s: Spread,
    /// Seconds of a step.
    pub step_s: Spread,
    /// Seconds in which one micro-batch is computed.
    pub micro_s: Spread,
    /// The same while the other devices compute beside it.
    pub micro_together_s: Spread,
}

/// Where a fleet's time goes, by turn, as shares of its step. With the efficiency they sum to about 1: a
/// device alone spends time on exchange and the host's part as well, but in a longer step.
#[derive(Clone, Debug, Serialize)]
pub struct Losses {
    /// Devices compute more slowly beside each other than alone, since they share caches and cores.
    pub slower_together: Spread,
    /// Whole micro-batches do not divide exactly by speed, and speeds vary from step to step.
    pub division: Spread,
    /// Time in which the busiest device does not compute: weights, gradients, the host's part.
    pub not_computing: Spread,
}

/// The effect of slowing the first device down to a third of its speed midway.
#[derive(Clone, Debug, Serialize)]
pub struct Slowdown {
    /// The device that slowed down.
    pub device: String,
    /// Steps until no other division would have been more than 5 % faster.
    pub steps_to_recover: u64,
    /// The device's share of the batch in the last step before.
    pub share_before: f64,
    /// Its share in the last step of the run.
    pub share_after: f64,
    /// The slowest device's time over that of the best division at the new speeds, by step from the slowdown
    /// on.
    pub over_best: Vec<f64>,
    /// Micro-batches computed in all steps over those that the steps had: 1 where none is lost.
    pub computed_share: f64,
}

/// Measures each device alone and all together, in a temporary folder.
pub fn measure(request: &Request) -> Result<Report> {
    let folder = std::env::temp_dir().join(format!("lingot-bench-fleet-{}", std::process::id()));
    let report = measure_in(&folder, request);
    // It holds only what was made for the measurement.
    let _ = std::fs::remove_dir_all(&folder);
    report
}

fn measure_in(folder: &Path, request: &Request) -> Result<Report> {
    let text = write_text(folder)?;
    let entries = entry::parse_all(&request.devices)?;
    if entries.is_empty() {
        return Err(Problem::new(
            "no device to measure is named",
            "name at least one, such as --device cpu@1,cpu@0.5",
        ));
    }
    let resolved = resolve(folder, &text, &request.devices, request, 1)?;
    // One opener for all turns: a device alone has the cores that it has in the fleet.
    let open = entry::opener(&resolved.run, &entries);
    let mut rounds = Vec::new();
    for round in 0..request.rounds {
        let mut alone = Vec::new();
        for (index, device) in request.devices.iter().enumerate() {
            let folder = folder.join(format!("{round}-{index}"));
            let resolved = resolve(&folder, &text, std::slice::from_ref(device), request, ALONE_STEPS)?;
            alone.push(turn(&resolved, 1, &open)?);
        }
        let steps = WARMUP_STEPS + request.steps.max(1);
        let folder = folder.join(format!("{round}-all"));
        let fleet = turn(&resolve(&folder, &text, &request.devices, request, steps)?, WARMUP_STEPS, &open)?;
        rounds.push(Round { alone, fleet });
    }
    let mut report = report(request, &rounds);
    if request.slows {
        let resolved = resolve(&folder.join("slows"), &text, &request.devices, request, SLOWDOWN_STEPS)?;
        report.slowdown = Some(slowdown::measure(&resolved, SLOWDOWN_AT, &open)?);
    }
    Ok(report)
}

/// Sums the rounds up.
fn report(request: &Request, rounds: &[Round]) -> Report {
    let Request { devices: names, micros, .. } = request;
    let spread = |of: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(of).collect());
    let device = |(index, name): (usize, &String)| Alone {
        device: name.clone(),
        tokens_per_s: spread(&|round| round.alone[index].tokens_per_s),
        step_s: spread(&|round| round.alone[index].step_s),
        micro_s: spread(&|round| round.alone[index].micro_s[0]),
        micro_together_s: spread(&|round| round.fleet.micro_s[index]),
    };
    let devices: Vec<Alone> = names.iter().enumerate().map(device).collect();
    let speed =
        |micro_s: &dyn Fn(usize) -> f64| (0..names.len()).map(|index| 1.0 / micro_s(index)).sum::<f64>();
    let losses = Losses {
        slower_together: spread(&|round| {
            1.0 - speed(&|index| round.fleet.micro_s[index]) / speed(&|index| round.alone[index].micro_s[0])
        }),
        division: spread(&|Round { fleet, .. }| {
            (fleet.busiest_s - *micros as f64 / speed(&|index| fleet.micro_s[index])) / fleet.step_s
        }),
        not_computing: spread(&|Round { fleet, .. }| 1.0 - fleet.busiest_s / fleet.step_s),
    };
    Report {
        micros_per_step: *micros,
        fleet_tokens_per_s: spread(&|round| round.fleet.tokens_per_s),
        sum_tokens_per_s: devices.iter().map(|alone| alone.tokens_per_s.median).sum(),
        efficiency: spread(&|Round { alone, fleet }| {
            fleet.tokens_per_s / alone.iter().map(|alone| alone.tokens_per_s).sum::<f64>()
        }),
        devices,
        losses,
        slowdown: None,
    }
}

/// The turns of all devices, and the fleet's after them.
struct Round {
    /// By device.
    alone: Vec<Turn>,
    fleet: Turn,
}

/// The timed steps of one run.
struct Turn {
    tokens_per_s: f64,
    step_s: f64,
    /// Seconds in which one micro-batch is computed, by device.
    micro_s: Vec<f64>,
    /// Seconds in which the busiest device computes in the mean step.
    busiest_s: f64,
}

/// Trains a run and measures its steps after the first `warmup`.
fn turn(resolved: &config::Resolved, warmup: u64, open: &Opener) -> Result<Turn> {
    let (mut marks, mut exchanges) = (Vec::new(), Vec::new());
    let mut listen = |event: &Event| match event {
        Event::Step(step) => marks.push(Mark { tokens: step.tokens, seconds: step.seconds }),
        Event::Exchange(exchange) => exchanges.push(exchange.clone()),
        _ => {}
    };
    train(resolved, open, &mut listen)?;
    let (first, last) = (&marks[warmup as usize - 1], &marks[marks.len() - 1]);
    let seconds = last.seconds - first.seconds;
    let timed = &exchanges[warmup as usize..];
    let steps = timed.len() as f64;
    let busy_s = |worker: usize| timed.iter().map(|exchange| exchange.workers[worker].busy_s).sum::<f64>();
    let workers = timed.first().map_or(0, |exchange| exchange.workers.len());
    let busiest = |exchange: &Exchange| exchange.workers.iter().map(|share| share.busy_s).fold(0.0, f64::max);
    Ok(Turn {
        tokens_per_s: (last.tokens - first.tokens) as f64 / seconds,
        step_s: seconds / steps,
        micro_s: (0..workers).map(|worker| busy_s(worker) / micros(timed, worker) as f64).collect(),
        busiest_s: timed.iter().map(busiest).sum::<f64>() / steps,
    })
}

/// How far a run had come after a step.
struct Mark {
    tokens: u64,
    seconds: f64,
}

/// Micro-batches that a worker computed.
fn micros(exchanges: &[Exchange], worker: usize) -> usize {
    let pieces = exchanges.iter().flat_map(|exchange| &exchange.pieces);
    pieces.filter(|piece| piece.worker == worker).map(|piece| piece.micros).sum()
}

fn train(resolved: &config::Resolved, open: &Opener, listen: &mut dyn FnMut(&Event)) -> Result<()> {
    let dataset = data::prepare_data(&resolved.run, &|_| ())?;
    step::train_fleet(resolved, &dataset, open.clone(), listen, &AtomicBool::new(false))?;
    Ok(())
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
        format!("batch.sequences={}", request.micros),
        format!("data.sequence={TOKENS_PER_MICRO}"),
        format!("stop.steps={steps}"),
    ];
    config::parse(RUN, Path::new("bench.toml"), &overrides)
}

/// Writes a text made by a formula.
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
    std::fs::create_dir_all(folder).map_err(|error| Problem::io("make", folder, &error))?;
    std::fs::write(&path, text).map_err(|error| Problem::io("write", &path, &error))?;
    Ok(path)
}
