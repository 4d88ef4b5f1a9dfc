//! `lingot bench ops` measures a device into a profile; `lingot bench predict` compares its predictions with
//! steps.

use crate::failure::{Failure, Result};
use crate::output;
use crate::target;
use crate::terminal::{Progress, Terminal};
use lingot_measure::Spread;
use lingot_measure::grid::{self, Setup};
use lingot_measure::ops::{self, OpsSample};
use lingot_plan::predict;
use lingot_plan::profile::{Between, Measured, Point, Profile};
use lingot_spec::Problem;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Time every op of training steps over a grid of shapes, and fit a profile
///
/// The profile holds the time of each kind of op as a function of its sizes. `lingot plan`,
/// `lingot train --profile` and `lingot bench predict` read it.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  lingot bench ops\n  lingot bench ops --threads 1 --out one-thread.toml"
)]
pub struct OpsArgs {
    /// Write the profile to this file
    #[arg(long, default_value = "profile.toml")]
    out: PathBuf,
    /// Measure this device; only `cpu` can be measured so far
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Use N threads of the processor; 0 for all of them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::threads())]
    threads: u32,
    /// Time N steps of each setup
    #[arg(long, value_name = "N", default_value = "7", value_parser = crate::counts())]
    steps: u64,
    /// Print the profile as one JSON object
    #[arg(long)]
    json: bool,
}

/// Compare predicted with measured steps, for setups that no profile was fitted to
///
/// Each setup runs in a process of its own, so that its peak memory can be measured.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  lingot bench predict\n  lingot bench predict --only h3 --json"
)]
pub struct PredictArgs {
    /// Predict with this profile
    #[arg(long, default_value = "profile.toml")]
    profile: PathBuf,
    /// Measure only this setup, h1 to h14
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

pub fn measure(args: &OpsArgs) -> Result<()> {
    if args.device != "cpu" {
        return Err(Failure::input(
            format!("cannot measure the ops of `{}`", args.device),
            "measure the processor: --device cpu",
        ));
    }
    target::check_file(&args.out)?;
    let (setups, steps) = (grid::grid(), args.steps as usize);
    let progress = Progress::new(&Terminal::detect());
    let start = Instant::now();
    let first = ops::measure_step(&setups[0], args.threads as usize, 3)?;
    let base_bytes = ops::base_bytes(&first, &setups[0]);
    let (mut measured, mut between, mut device) = (vec![], vec![], (String::new(), 0));
    for (done, setup) in setups.iter().enumerate() {
        progress.update("ops", done as u64, setups.len() as u64, || {
            let left_s = start.elapsed().as_secs_f64() / (done.max(1) as f64) * (setups.len() - done) as f64;
            format!("{}, {left_s:.0} s left", setup.name)
        });
        let sample = ops::measure_ops(setup, args.threads as usize, steps)?;
        between.push(Between { ops: sample.op_count as f64, bytes: sample.bytes, seconds: sample.between_s });
        measured.extend(points(&sample));
        device = (format!("{}, {}", args.device, sample.device), sample.threads);
    }
    let profile = Profile::fit(device.0, device.1, base_bytes, measured, &between);
    std::fs::write(&args.out, profile.to_toml()).map_err(|error| Failure::io("write", &args.out, &error))?;
    if args.json {
        return output::json(&profile);
    }
    output::result(&summary(&profile, &args.out))
}

fn points(sample: &OpsSample) -> impl Iterator<Item = Measured> + '_ {
    sample.ops.iter().map(|sample| Measured {
        op: sample.op.name.into(),
        form: sample.op.form.into(),
        point: Point {
            sizes: sample.op.sizes,
            seconds: sample.seconds,
            range_s: [sample.least_s, sample.most_s],
        },
    })
}

fn summary(profile: &Profile, place: &Path) -> String {
    let mut text = format!("{}\n\nop                       form  points  held-out error\n", profile.device);
    text.extend(profile.family.iter().map(|family| {
        format!(
            "{:<24} {:<5} {:>6} {:>13.1} %\n",
            family.op,
            family.form,
            family.points.len(),
            100.0 * family.left_out_error
        )
    }));
    text + &format!("\nwritten to {}\n", place.display())
}

pub fn compare(args: &PredictArgs) -> Result<()> {
    let profile = read(&args.profile)?;
    let setups = grid::held_out();
    let rows = match &args.only {
        Some(name) => {
            let setup = setups.iter().find(|setup| setup.name == *name).ok_or_else(|| {
                Failure::input(format!("unknown setup `{name}`"), "choose one of h1 to h14")
            })?;
            vec![row(setup, &profile, args.steps as usize)?]
        }
        None => {
            let progress = Progress::new(&Terminal::detect());
            let total = setups.len() as u64;
            (0..)
                .zip(&setups)
                .map(|(done, setup)| {
                    progress.update("steps", done, total, || setup.name.clone());
                    in_a_process(args, &setup.name)
                })
                .collect::<Result<Vec<Row>>>()?
        }
    };
    let table = Table::new(rows);
    if args.json {
        return output::json(&table);
    }
    output::result(&table.text())
}

/// Reads a profile.
pub fn read(path: &Path) -> Result<Profile> {
    let hint = "make a profile by `lingot bench ops`";
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::input(format!("cannot read {}: {error}", path.display()), hint))?;
    Profile::parse(&text)
        .map_err(|error| Failure::input(format!("{}: {}", path.display(), error.problem), error.hint))
}

fn row(setup: &Setup, profile: &Profile, steps: usize) -> Result<Row> {
    let predicted = predict::step(&setup.model, &setup.batch(), profile);
    if let Some(op) = predicted.unknown.first() {
        return Err(Failure::input(
            format!("the profile has no op `{op}`"),
            "make a new profile by `lingot bench ops`",
        ));
    }
    let measured = ops::measure_step(setup, profile.threads, steps)?;
    Ok(Row {
        name: setup.name.clone(),
        predicted_s: predicted.seconds,
        measured_s: measured.step_s.median,
        least_s: measured.step_s.least,
        most_s: measured.step_s.most,
        predicted_bytes: predicted.memory_bytes,
        measured_bytes: measured.peak_memory_bytes,
        tensor_bytes: measured.peak_tensor_bytes,
    })
}

/// The row of one setup, measured by a process of its own.
fn in_a_process(args: &PredictArgs, name: &str) -> Result<Row> {
    let failed = |problem: String| -> Failure {
        Problem::new(problem, format!("run it alone to see why: lingot bench predict --only {name}")).into()
    };
    let output = std::env::current_exe()
        .and_then(|program| {
            Command::new(program)
                .args(["bench", "predict", "--json", "--only", name, "--steps", &args.steps.to_string()])
                .arg("--profile")
                .arg(&args.profile)
                .output()
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
