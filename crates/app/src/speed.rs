//! `lingot bench train`: the speed of whole training steps.

use crate::case::{CaseArgs, Named};
use crate::failure::{Failure, Result};
use crate::output;
use crate::terminal::{bytes, count};
use lingot_measure::{Peak, Report, Request, RoutingReport, Spread, steps};
use lingot_plan::{Catalogue, Chip};
use lingot_spec::run::Precision;
use std::time::Instant;

/// Time whole training steps on generated tokens
///
/// A step copies the batch to the device and runs forward pass, backward pass and update, and
/// ends when the device has finished; generating the tokens is not timed. Steps with the
/// router's own choices and steps with equal loads alternate, and both are reported.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct TrainArgs {
    #[command(flatten)]
    case: CaseArgs,
    /// Measure this device; `lingot devices` lists those of this machine
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Compare the rate with the peak of this chip of the catalogue [default: the one that the device's
    /// description names]
    #[arg(long, value_name = "NAME")]
    chip: Option<String>,
    /// Use N threads of the processor; 0 for all of them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::threads())]
    threads: u32,
    /// Take N steps of each routing before the timed ones
    #[arg(long, value_name = "N", default_value = "1", value_parser = crate::counts())]
    warm: u64,
    /// Time N steps of each routing
    #[arg(long, value_name = "N", default_value = "5", value_parser = crate::counts())]
    steps: u64,
    /// Also print the time of each kind of op, waiting for the device after each; `lingot bench ops --model`
    /// does without these waits
    #[arg(long)]
    profile: bool,
    /// Also time steps in which all tokens choose the same experts
    #[arg(long)]
    skewed: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &TrainArgs, start: Instant) -> Result<()> {
    let Named { case, precision } = args.case.find()?;
    let catalogue = Catalogue::built_in()?;
    let named = args.chip.as_deref().map(|chip| catalogue.chip(chip)).transpose();
    let named = named.map_err(Failure::of_input)?;
    let request = Request {
        device: args.device.clone(),
        precision,
        threads: args.threads as usize,
        warm: args.warm as usize,
        steps: args.steps as usize,
        profile: args.profile,
        skewed: args.skewed,
    };
    let mut report = steps::train(&case, &request, start)?;
    let chip = named.or_else(|| described(&catalogue, &report.device));
    if let Some(peak) = chip.and_then(|chip| peak(chip, precision)) {
        report.compare_with(peak);
    }
    if args.json {
        return output::json(&report);
    }
    output::result(&text(&report))
}

/// The chip with the longest name in a device's description, if there is one.
fn described<'a>(catalogue: &'a Catalogue, device: &str) -> Option<&'a Chip> {
    let words = |text: &str| -> Vec<String> {
        let parts = text.split(|letter: char| !letter.is_ascii_alphanumeric());
        parts.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
    };
    let device = words(device);
    let is_named = |name: &str| {
        let name = words(name);
        device.windows(name.len()).any(|part| part == name)
    };
    // A single letter is the alias of a chip whose maker is not named, and would match any word.
    let chips = catalogue.chips.iter().filter(|chip| chip.name.len() > 1 && is_named(&chip.name));
    chips.max_by_key(|chip| chip.name.len())
}

/// The peak of a chip; none if the catalogue has no rate of it in this precision.
fn peak(chip: &Chip, precision: Precision) -> Option<Peak> {
    let flops_per_s = *chip.peak_flops.get(precision.name())?;
    Some(Peak { chip: chip.name.clone(), flops_per_s })
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{} in {}: {} parameters, {} tokens a step in {} micro-batch{} of sequences of {}, {:.1} MFLOP a \
         token; {}\n\n",
        report.model,
        report.precision.name(),
        count(report.parameters as f64),
        report.tokens_per_step,
        report.micros,
        if report.micros == 1 { "" } else { "es" },
        report.sequence,
        report.flops_per_token / 1e6,
        report.device
    );
    text += "routing    tokens/s (range)               ms a step   GFLOP/s  of products  of peak  busiest \
             expert\n";
    text.extend(report.routings.iter().map(line));
    text += &ceilings(report);
    if let Some(peak) = report.peak_memory_bytes {
        text +=
            &format!("memory     {} at most, {} of tensors\n", bytes(peak), bytes(report.peak_tensor_bytes));
    }
    let start_up = report.start_up;
    text += &format!(
        "first step {:.3} s, {:.3} s after the start of the program: {:.3} s until the device was open, \
         weights {:.3} s, optimizer's state {:.3} s\n",
        report.first_step_s,
        report.start_to_first_step_s,
        start_up.device_s,
        start_up.weights_s,
        start_up.state_s
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

/// What the shares are of.
fn ceilings(report: &Report) -> String {
    let (matmul, [m, k, n]) = (&report.matmul, report.matmul.shape);
    let Spread { median, least, most } = matmul.gflops_per_s;
    let mut text = format!("\nproducts   {median:.0} GFLOP/s ({least:.0} to {most:.0}) at {m} x {k} x {n}");
    if let Some(registers) = &matmul.registers_gflops_per_s {
        text += &format!("; registers {:.0} GFLOP/s", registers.median);
    }
    text += "\n";
    if let Some(peak) = &report.peak {
        text += &format!(
            "peak       {:.0} GFLOP/s, dense {}, {} in the catalogue\n",
            peak.flops_per_s / 1e9,
            report.precision.name(),
            peak.chip
        );
    }
    text
}

fn line(routing: &RoutingReport) -> String {
    let speed = &routing.tokens_per_s;
    let name = format!("{:?}", routing.routing).to_lowercase();
    let range = format!("({:.0} to {:.0})", speed.least, speed.most);
    let peak = routing.peak_share.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share));
    format!(
        "{name:<9} {:>9.0} {range:<20} {:>11.2} {:>9.1} {:>10.0} % {peak:>8} {:>8.2} x mean\n",
        speed.median,
        1e3 * routing.step_s.median,
        routing.gflops_per_s,
        100.0 * routing.matmul_share,
        routing.imbalance
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_found_by_its_own_name_and_no_other() {
        let catalogue = Catalogue::built_in().unwrap();
        let named = |device: &str| {
            let peak = described(&catalogue, device).and_then(|chip| peak(chip, Precision::Bf16));
            peak.map(|peak| (peak.chip, peak.flops_per_s))
        };
        assert_eq!(named("NVIDIA H100 80GB HBM3, torch 2.11.0"), Some(("H100".into(), 9.89e14)));
        assert_eq!(named("Intel Xeon, kernel amx, 2 threads, a b c d e"), None);
        assert_eq!(named("torch 2.15.0"), None);
        let given = catalogue.chip("h200").unwrap();
        assert_eq!(peak(given, Precision::Bf16).unwrap().chip, "H200");
        assert_eq!(peak(given, Precision::F32), None);
    }
}
