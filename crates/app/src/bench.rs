//! `lingot bench` and what it measures. `fleet` is here, `train` in `speed.rs`, `ops` in `profile.rs`,
//! `predict` in `predicted.rs`, `plan` in `growth.rs`.

use crate::failure::{Failure, Result};
use crate::growth;
use crate::output;
use crate::predicted;
use crate::profile;
use crate::speed;
use lingot_device::entry;
use lingot_measure::{Spread, fleet};
use lingot_plan::together;
use std::time::Instant;

/// Measure the devices of this machine
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lingot bench train --model S
  lingot bench train --model M --profile
  lingot bench train --model M --precision bf16
  lingot bench train --device torch:cpu
  lingot bench train --device torch:cuda:0 --model G --precision bf16 --micros 4
  lingot bench fleet --device cpu@0.4,cpu@0.2,cpu@0.1
  lingot bench ops
  lingot bench predict
  lingot bench plan")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Train(speed::TrainArgs),
    Fleet(FleetArgs),
    Ops(profile::OpsArgs),
    Predict(predicted::PredictArgs),
    Plan(growth::Args),
}

/// Compare the speed of a fleet with the sum of its devices
///
/// Each device trains a small model alone, then all train it together, in turns. The speed
/// that the planner predicts is printed too. cpu@0.5 emulates half the speed of the processor;
/// docs/fleet.md documents all entries.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct FleetArgs {
    /// Measure these devices, separated by commas
    #[arg(long, default_value = "cpu@0.4,cpu@0.2,cpu@0.1", value_name = "DEVICE,...")]
    device: String,
    /// Divide N threads of the processor among the devices; 0 for all of them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::threads())]
    threads: u32,
    /// Measure each device and the fleet N times
    #[arg(long, value_name = "N", default_value = "3", value_parser = crate::counts())]
    rounds: u64,
    /// Time N steps each time
    #[arg(long, value_name = "N", default_value = "20", value_parser = crate::counts())]
    steps: u64,
    /// Divide each step into N micro-batches of one sequence of 128 tokens
    #[arg(long, value_name = "N", default_value = "112", value_parser = crate::counts())]
    micros: u64,
    /// Also slow the first device down threefold midway, and report how soon the shares follow
    #[arg(long)]
    slows: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn fleet(args: &FleetArgs) -> Result<()> {
    let devices = entry::split(&args.device);
    entry::parse_all(&devices).map_err(Failure::of_input)?;
    let request = fleet::Request {
        devices,
        rounds: args.rounds as usize,
        steps: args.steps,
        threads: args.threads as usize,
        micros: args.micros,
        slows: args.slows,
    };
    let measured = fleet::measure(&request)?;
    let report = FleetReport { planned: plan(&measured), measured };
    if args.json {
        return output::json(&report);
    }
    output::result(&fleet_text(&report))
}

/// What was measured, and what the planner predicts for these devices.
#[derive(serde::Serialize)]
struct FleetReport {
    #[serde(flatten)]
    measured: fleet::Report,
    /// None if no prediction can be made from the measured times.
    planned: Option<Planned>,
}

#[derive(serde::Serialize)]
struct Planned {
    tokens_per_s: f64,
    efficiency: f64,
    /// Micro-batches by device.
    micros: Vec<u32>,
    /// Predicted tokens/s over measured ones, less one.
    error: f64,
}

/// The planner's prediction, from each device alone: its time for a micro-batch, and the rest of its step.
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
            "{} slowed down threefold: its share of the batch went from {:.1} % to {:.1} %, {} steps were \
             divided \
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
    match &args.what {
        What::Train(args) => speed::run(args, start),
        What::Fleet(args) => fleet(args),
        What::Ops(args) => profile::measure(args),
        What::Predict(args) => predicted::compare(args),
        What::Plan(args) => growth::run(args),
    }
}
