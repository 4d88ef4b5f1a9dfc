//! `lingot bench predict`: the predictions of a profile beside measured steps.

use crate::failure::{Failure, Result};
use crate::output;
use crate::profile::{opened, read};
use crate::terminal::{Progress, Terminal};
use lingot_device::Device;
use lingot_measure::Spread;
use lingot_measure::grid::{self, Setup, Target};
use lingot_measure::ops;
use lingot_plan::predict;
use lingot_plan::profile::Profile;
use lingot_spec::Problem;
use serde::Serialize;
use std::path::PathBuf;
use std::process::Command;

/// Compare predicted with measured steps, for setups that no profile was fitted to
///
/// On a processor each setup runs in a process of its own, so that its peak memory can be
/// measured; on an accelerator the memory is that of its tensors, and G and Q are among the
/// setups.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  lingot bench predict\n  lingot bench predict --only h3 --json"
)]
pub struct PredictArgs {
    /// Predict with this profile
    #[arg(long, default_value = "profile.toml")]
    profile: PathBuf,
    /// Measure this device [default: the one that the profile is of]
    #[arg(long)]
    device: Option<String>,
    /// Measure only this setup, such as h3
    #[arg(long)]
    only: Option<String>,
    /// Time N steps of each setup
    #[arg(long, value_name = "N", default_value = "7", value_parser = crate::counts())]
    steps: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One setup: predicted and measured figures.
#[derive(Serialize, serde::Deserialize)]
struct Row {
    name: String,
    predicted_s: f64,
    measured_s: f64,
    least_s: f64,
    most_s: f64,
    predicted_bytes: u64,
    measured_bytes: Option<u64>,
    tensor_bytes: u64,
}

/// All setups.
#[derive(Serialize)]
struct Table {
    rows: Vec<Row>,
    median_time_error: f64,
    worst_time_error: f64,
    worst_memory_error: f64,
}

pub fn compare(args: &PredictArgs) -> Result<()> {
    let profile = read(&args.profile)?;
    let target = Target { precision: profile.precision, is_accelerator: profile.is_of_accelerator() };
    let setups = grid::held_out(target);
    let chosen: Vec<&Setup> = match &args.only {
        None => setups.iter().collect(),
        Some(name) => {
            let found = setups.iter().find(|setup| setup.name.eq_ignore_ascii_case(name));
            let names: Vec<&str> = setups.iter().map(|setup| setup.name.as_str()).collect();
            let hint = format!("choose one of {}", names.join(", "));
            vec![found.ok_or_else(|| Failure::input(format!("unknown setup `{name}`"), hint))?]
        }
    };
    let device = device(args, &profile)?;
    let progress = Progress::new(&Terminal::detect());
    let mut rows = vec![];
    for (done, setup) in (0..).zip(&chosen) {
        progress.update("steps", done, chosen.len() as u64, || setup.name.clone());
        let is_alone = args.only.is_some() || target.is_accelerator;
        rows.push(match is_alone {
            true => row(setup, &profile, &device, args.steps as usize)?,
            false => in_a_process(args, &setup.name)?,
        });
    }
    let table = Table::new(rows);
    if args.json {
        return output::json(&table);
    }
    output::result(&table.text())
}

/// Opens the device that is compared.
///
/// Errors if the profile is of an accelerator and the device is none, or the other way round: their setups
/// differ.
fn device(args: &PredictArgs, profile: &Profile) -> Result<Device> {
    let of_profile = profile.device.split(", ").next().unwrap_or_default();
    let name = args.device.as_deref().unwrap_or(of_profile);
    let device = opened(name, profile.threads as u32, profile.precision)?;
    if device.info().is_accelerator() == profile.is_of_accelerator() {
        return Ok(device);
    }
    Err(Failure::input(
        format!("{} is the profile of {of_profile}, and says nothing about {name}", args.profile.display()),
        format!("measure it first: lingot bench ops --device {name}"),
    ))
}

fn row(setup: &Setup, profile: &Profile, device: &Device, steps: usize) -> Result<Row> {
    let predicted = predict::step(&setup.model, &setup.batch(), profile);
    if let Some(op) = predicted.unknown.first() {
        return Err(Failure::input(
            format!("the profile has no op `{op}`"),
            "make a new profile by `lingot bench ops`",
        ));
    }
    let measured = ops::measure_step(setup, device, steps)?;
    let tensor_bytes = measured.peak_tensor_bytes;
    let of_process = measured.peak_memory_bytes;
    Ok(Row {
        name: setup.name.clone(),
        predicted_s: predicted.seconds,
        measured_s: measured.step_s.median,
        least_s: measured.step_s.least,
        most_s: measured.step_s.most,
        predicted_bytes: predicted.memory_bytes,
        measured_bytes: if device.info().is_accelerator() { Some(tensor_bytes) } else { of_process },
        tensor_bytes,
    })
}

/// The row of one setup, measured by a process of its own.
fn in_a_process(args: &PredictArgs, name: &str) -> Result<Row> {
    let failed = |problem: String| -> Failure {
        Problem::new(problem, format!("run it alone to see why: lingot bench predict --only {name}")).into()
    };
    let output = std::env::current_exe()
        .and_then(|program| {
            let mut command = Command::new(program);
            command.args(["bench", "predict", "--json", "--only", name, "--steps", &args.steps.to_string()]);
            command.arg("--profile").arg(&args.profile);
            if let Some(device) = &args.device {
                command.args(["--device", device]);
            }
            command.output()
        })
        .map_err(|error| failed(format!("cannot start a process for {name}: {error}")))?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim())))?;
    serde_json::from_value(value["rows"][0].clone()).map_err(|error| failed(format!("{name}: {error}")))
}

impl Row {
    fn time_error(&self) -> f64 {
        self.predicted_s / self.measured_s - 1.0
    }

    fn memory_error(&self) -> Option<f64> {
        self.measured_bytes.map(|measured| self.predicted_bytes as f64 / measured as f64 - 1.0)
    }
}

impl Table {
    fn new(rows: Vec<Row>) -> Table {
        let errors = Spread::of(rows.iter().map(|row| row.time_error().abs()).collect());
        Table {
            median_time_error: errors.median,
            worst_time_error: errors.most,
            worst_memory_error: rows.iter().filter_map(Row::memory_error).map(f64::abs).fold(0.0, f64::max),
            rows,
        }
    }

    fn text(&self) -> String {
        let mut text =
            "setup  predicted ms  measured ms (range)          error   predicted MB  measured MB   error\n"
                .to_owned();
        text.extend(self.rows.iter().map(|row| {
            format!(
                "{:<6} {:>12.1} {:>12.1} ({:.1} to {:.1}) {:>+8.1} % {:>13.1} {:>12.1} {:>+6.1} %\n",
                row.name,
                1e3 * row.predicted_s,
                1e3 * row.measured_s,
                1e3 * row.least_s,
                1e3 * row.most_s,
                100.0 * row.time_error(),
                row.predicted_bytes as f64 / 1e6,
                row.measured_bytes.map_or(f64::NAN, |bytes| bytes as f64 / 1e6),
                100.0 * row.memory_error().unwrap_or(f64::NAN)
            )
        }));
        text + &format!(
            "\ntime: median error {:.1} %, worst {:.1} %; memory: worst {:.1} %\n",
            100.0 * self.median_time_error,
            100.0 * self.worst_time_error,
            100.0 * self.worst_memory_error
        )
    }
}
