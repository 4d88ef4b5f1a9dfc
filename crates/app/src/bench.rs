//! `lingot bench`: `train` says how fast this machine trains and what takes the time, `fleet` how fast a fleet does;
//! `profile.rs` and `growth.rs` have the rest.

use crate::failure::{Failure, Result};
use crate::growth;
use crate::json;
use crate::profile;
use crate::terminal::{bytes, count};
use lingot_device::entry;
use lingot_measure::{Case, Report, Request, RoutingReport, Spread, fleet, steps};
use lingot_plan::together;
use std::time::Instant;

/// Measure this machine.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lingot bench train --model S\n  lingot bench train --model M --profile\n  lingot bench fleet --device cpu@0.4,cpu@0.2,cpu@0.1\n  lingot bench train --device torch:cpu\n  lingot bench ops\n  lingot bench predict\n  lingot bench plan"
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Train(TrainArgs),
    Fleet(FleetArgs),
    Ops(profile::OpsArgs),
    Predict(profile::PredictArgs),
    Plan(growth::Args),
}

/// Time whole training steps on made-up tokens.
///
/// A step is forward, backward and update, moving the batch to the device included, making its tokens not. Steps with
/// the router's own choices and steps with equal loads take turns, and both are reported.
#[derive(clap::Args)]
struct TrainArgs {
    /// S (18 M parameters), M (230 M) or L (one layer of Ling-mini-2.0, needs 16 GB)
    #[arg(long, default_value = "S")]
    model: String,
    /// As in `device.name` of a run
    #[arg(long, default_value = "cpu")]
    device: String,
    /// CPU threads; 0 for all
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Timed steps of each routing
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Also say how long each kind of op took
    #[arg(long)]
    profile: bool,
    /// Also time steps in which all tokens choose the same experts
    #[arg(long)]
    skewed: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Time a fleet against the sum of its devices.
///
/// Each device trains a small model alone, then all train together, in turns; beside it stands what the planner says. An entry such as cpu@0.5 is a device at
/// half the speed, emulated by sleeping; docs/fleet.md says what else an entry may be.
#[derive(clap::Args)]
struct FleetArgs {
    /// The devices, separated by commas
    #[arg(long, default_value = "cpu@0.4,cpu@0.2,cpu@0.1", value_name = "DEVICE,...")]
    device: String,
    /// CPU threads that are divided among the devices; 0 for all
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Turns of each device and of the fleet
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Timed steps of a turn
    #[arg(long, default_value_t = 20)]
    steps: u64,
    /// Micro-batches of a step, each of one sequence of 128 tokens
    #[arg(long, default_value_t = 112)]
    micros: u64,
    /// Also slow the first device down threefold midway, and say how soon the shares follow
    #[arg(long)]
    slows: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn fleet(args: &FleetArgs) -> Result<()> {
    let request = fleet::Request {
        devices: entry::split(&args.device),
        rounds: args.rounds.max(1),
        steps: args.steps,
        threads: args.threads,
        micros: args.micros.max(1),
        slows: args.slows,
    };
    let measured = fleet::measure(&request)?;
    let report = FleetReport { planned: plan(&measured), measured };
    if args.json {
        return json::print(&report);
    }
    json::write(&fleet_text(&report));
    Ok(())
}

/// What was measured, and beside it what the planner says of these devices.
#[derive(serde::Serialize)]
struct FleetReport {
    #[serde(flatten)]
    measured: fleet::Report,
    /// None where the measured times make no sense.
    planned: Option<Planned>,
}

#[derive(serde::Serialize)]
struct Planned {
    tokens_per_s: f64,
    efficiency: f64,
    /// Micro-batches by device.
    micros: Vec<u32>,
    /// Predicted over measured tokens/s, less one.
    error: f64,
}

/// The planner knows each device alone: what a micro-batch takes, and the rest of its step.
fn plan(report: &fleet::Report) -> Option<Planned> {
    let micros = u32::try_from(report.micros_per_step).ok()?;
    let device = |alone: &fleet::Alone| {
        let micro_s = alone.micro_s.median;
        let fixed_s = (alone.step_s.median - micro_s * f64::from(micros)).max(0.0);
        together::Device { micro_s, fixed_s, most: u32::MAX }
    };
    let devices: Vec<together::Device> = report.devices.iter().map(device).collect();
    let found = together::together(micros, &devices, 0.0)?;
    let tokens_per_micro = f64::from(fleet::TOKENS_PER_MICRO);
    let tokens_per_s = tokens_per_micro * found.micros_per_s;
    Some(Planned {
        tokens_per_s,
        efficiency: found.efficiency,
        micros: found.counts,
        error: tokens_per_s / report.fleet_tokens_per_s.median - 1.0,
    })
}

fn fleet_text(FleetReport { measured: report, planned }: &FleetReport) -> String {
    let line = |name: &str, speed: &Spread| {
        format!("{name:<40} {:>9.0} ({:.0} to {:.0})\n", speed.median, speed.least, speed.most)
    };
    let mut text = "device                                    tokens/s (range)\n".to_owned();
    text.extend(report.devices.iter().map(|alone| line(&alone.device, &alone.tokens_per_s)));
    text += &line("all together", &report.fleet_tokens_per_s);
    let percent = |spread: &Spread| {
        let [median, least, most] = [spread.median, spread.least, spread.most].map(|share| 100.0 * share);
        format!("{median:.1} % ({least:.1} to {most:.1})")
    };
    text += &format!(
        "\n{} of the sum of the devices, {:.0} tokens/s\nlost to computing slower side by side {}, \
         to whole micro-batches {}, to what is not computing {}\n",
        percent(&report.efficiency),
        report.sum_tokens_per_s,
        percent(&report.losses.slower_together),
        percent(&report.losses.division),
        percent(&report.losses.not_computing)
    );
    if let Some(planned) = planned {
        text += &format!(
            "the planner says {:.0} tokens/s, {:+.1} % off; {:.1} % of the sum\n",
            planned.tokens_per_s,
            100.0 * planned.error,
            100.0 * planned.efficiency
        );
    }
    if let Some(slowdown) = &report.slowdown {
        text += &format!(
            "{} slowed down threefold: its share of the batch went from {:.1} % to {:.1} %, {} steps were divided \
             for its old speed; {:.1} % of the micro-batches were computed\n",
            slowdown.device,
            100.0 * slowdown.share_before,
            100.0 * slowdown.share_after,
            slowdown.steps_to_recover,
            100.0 * slowdown.computed_share
        );
    }
    text
}

pub fn run(args: &Args, start: Instant) -> Result<()> {
    let args = match &args.what {
        What::Train(args) => args,
        What::Fleet(args) => return fleet(args),
        What::Ops(args) => return profile::measure(args),
        What::Predict(args) => return profile::compare(args),
        What::Plan(args) => return growth::run(args),
    };
    let case = Case::named(&args.model).ok_or_else(|| {
        Failure::input(format!("no benchmark model is called `{}`", args.model), "there are S, M and L")
    })?;
    let request = Request {
        device: args.device.clone(),
        threads: args.threads,
        steps: args.steps.max(1),
        profile: args.profile,
        skewed: args.skewed,
    };
    let report = steps::train(&case, &request, start)?;
    if args.json {
        return json::print(&report);
    }
    json::write(&text(&report));
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}: {} parameters, {} tokens a step, {:.1} MFLOP a token; {}\n\n",
        report.model,
        count(report.parameters as f64),
        report.tokens_per_step,
        report.flops_per_token / 1e6,
        report.device
    );
    text += "routing    tokens/s (range)            GFLOP/s  of products  busiest expert\n";
    text.extend(report.routings.iter().map(line));
    let matmul = &report.matmul;
    let [m, k, n] = matmul.shape;
    text += &format!(
        "\nproducts   {:.0} GFLOP/s ({:.0} to {:.0}) at {m} x {k} x {n}; registers {:.0} GFLOP/s\n",
        matmul.gflops_per_s.median,
        matmul.gflops_per_s.least,
        matmul.gflops_per_s.most,
        matmul.registers_gflops_per_s.median
    );
    if let Some(peak) = report.peak_memory_bytes {
        text +=
            &format!("memory     {} at most, {} of tensors\n", bytes(peak), bytes(report.peak_tensor_bytes));
    }
    text += &format!(
        "first step {:.3} s, {:.3} s after the start of the program\n",
        report.first_step_s, report.start_to_first_step_s
    );
    if let Some(profile) = &report.profile {
        text += "\nop                        calls        ms   share  GFLOP/s     GB/s\n";
        text.extend(profile.iter().map(|entry| {
            let (ms, percent) = (1e3 * entry.seconds, 100.0 * entry.share);
            format!(
                "{:<24} {:>6.0} {ms:>9.3} {percent:>5.1} % {:>8.1} {:>8.1}\n",
                entry.op, entry.calls, entry.gflops_per_s, entry.gbytes_per_s
            )
        }));
    }
    text
}

fn line(routing: &RoutingReport) -> String {
    let speed = &routing.tokens_per_s;
    let name = format!("{:?}", routing.routing).to_lowercase();
    format!(
        "{name:<9} {:>9.0} ({:.0} to {:.0}) {:>13.1} {:>10.0} %  {:>8.2} x mean\n",
        speed.median,
        speed.least,
        speed.most,
        routing.gflops_per_s,
        100.0 * routing.matmul_share,
        routing.imbalance
    )
}
