//! `lingot bench` and what it measures. `train` and `fleet` are here, `ops` and `predict` in `profile.rs`,
//! `plan` in `growth.rs`.

use crate::failure::{Failure, Result};
use crate::growth;
use crate::output;
use crate::profile;
use crate::terminal::{bytes, count};
use lingot_device::entry;
use lingot_measure::{Case, Report, Request, RoutingReport, Spread, fleet, steps};
use lingot_plan::together;
use lingot_spec::run::Precision;
use std::time::Instant;

/// Measure the devices of this machine
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lingot bench train --model S
  lingot bench train --model M --profile
  lingot bench train --model M --precision bf16
  lingot bench train --device torch:cpu
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
    Train(TrainArgs),
    Fleet(FleetArgs),
    Ops(profile::OpsArgs),
    Predict(profile::PredictArgs),
    Plan(growth::Args),
}

/// Time whole training steps on generated tokens
///
/// A step copies the batch to the device and runs forward pass, backward pass and update;
/// generating the tokens is not timed. Steps with the router's own choices and steps with
/// equal loads alternate, and both are reported.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
struct TrainArgs {
    /// Train S (18 M parameters), M (230 M) or L (one layer of Ling-mini-2.0; needs 16 GB)
    #[arg(long, default_value = "S")]
    model: String,
    /// Measure this device; `lingot devices` lists those of this machine
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Hold activations and working weights in f32 or bf16
    #[arg(long, value_name = "KIND", default_value = "f32", value_parser = ["f32", "bf16"])]
    precision: String,
    /// Use N threads of the processor; 0 for all of them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::threads())]
    threads: u32,
    /// Time N steps of each routing
    #[arg(long, value_name = "N", default_value = "5", value_parser = crate::counts())]
    steps: u64,
    /// Also print the time of each kind of op
    #[arg(long)]
    profile: bool,
    /// Also time steps in which all tokens choose the same experts
    #[arg(long)]
    skewed: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
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
    let args = match &args.what {
        What::Train(args) => args,
        What::Fleet(args) => return fleet(args),
        What::Ops(args) => return profile::measure(args),
        What::Predict(args) => return profile::compare(args),
        What::Plan(args) => return growth::run(args),
    };
    let case = Case::named(&args.model).ok_or_else(|| {
        Failure::input(format!("unknown benchmark model `{}`", args.model), "choose S, M or L")
    })?;
    let request = Request {
        device: args.device.clone(),
        precision: if args.precision == "bf16" { Precision::Bf16 } else { Precision::F32 },
        threads: args.threads as usize,
        steps: args.steps as usize,
        profile: args.profile,
        skewed: args.skewed,
    };
    let report = steps::train(&case, &request, start)?;
    if args.json {
        return output::json(&report);
    }
    output::result(&text(&report))
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{} in {}: {} parameters, {} tokens a step, {:.1} MFLOP a token; {}\n\n",
        report.model,
        report.precision.name(),
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
