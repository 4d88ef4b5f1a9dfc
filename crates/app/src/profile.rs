//! `lingot bench ops`: the ops of a device measured into a profile, or those of one model beside their
//! floors.

use crate::case::{CaseArgs, Named};
use crate::checkpoint::open_device;
use crate::failure::{Failure, Result};
use crate::output;
use crate::target;
use crate::terminal::{Progress, Terminal};
use lingot_device::Device;
use lingot_measure::grid::{self, Setup, Target};
use lingot_measure::ops::{self, OpsSample};
use lingot_measure::table::{self, OpTable};
use lingot_measure::{Ceilings, links};
use lingot_plan::profile::{Between, Links, Measured, Point, Profile, Subject};
use lingot_spec::run::{DeviceSpec, Precision};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Time every op of training steps over a grid of shapes, and fit a profile
///
/// The profile holds the time of each kind of op as a function of its sizes. `lingot plan`,
/// `lingot train --profile` and `lingot bench predict` read it. With --model the ops of that
/// model's step are printed beside the time that their work takes at least, and no profile is
/// written. On an accelerator each op is timed by the device's clock, without what enqueuing it
/// takes.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot bench ops
  lingot bench ops --threads 1 --out one-thread.toml
  lingot bench ops --device torch:cuda:0 --precision bf16
  lingot bench ops --device torch:cuda:0 --precision bf16 --model G"
)]
pub struct OpsArgs {
    /// Write the profile to this file
    #[arg(long, default_value = "profile.toml", conflicts_with = "model")]
    out: PathBuf,
    /// Measure this device; `lingot devices` lists those of this machine
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print the ops of this model's step: T, S, M, L, G, Q, a preset or a RUN.toml
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Divide each step into N micro-batches [default: 1, or as in RUN.toml]
    #[arg(long, value_name = "N", requires = "model", value_parser = crate::counts())]
    micros: Option<u64>,
    /// Hold activations and working weights in f32 or bf16 [default: f32, or as in RUN.toml]
    #[arg(long, value_name = "KIND", value_parser = crate::precisions())]
    precision: Option<Precision>,
    /// Use N threads of the processor; 0 for all of them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::threads())]
    threads: u32,
    /// Time N steps of each setup [default: 7, or 3 with --model]
    #[arg(long, value_name = "N", value_parser = crate::counts())]
    steps: Option<u64>,
    /// Print the profile, or the ops, as one JSON object
    #[arg(long)]
    json: bool,
}

pub fn measure(args: &OpsArgs) -> Result<()> {
    if let Some(model) = &args.model {
        return of_model(args, model);
    }
    target::check_file(&args.out)?;
    let precision = args.precision.unwrap_or_default();
    let device = opened(&args.device, args.threads, precision)?;
    let profile = of_grid(args, &device, precision)?;
    std::fs::write(&args.out, profile.to_toml()).map_err(|error| Failure::io("write", &args.out, &error))?;
    if args.json {
        return output::json(&profile);
    }
    output::result(&summary(&profile, &args.out))
}

/// Opens a device that is measured, as a run of that precision does: else it would multiply bf16 in f32.
pub fn opened(name: &str, threads: u32, precision: Precision) -> Result<Device> {
    open_device(&DeviceSpec { name: name.into(), threads, precision, ..DeviceSpec::default() })
}

/// Measures the setups of the grid, and fits a profile to them.
fn of_grid(args: &OpsArgs, device: &Device, precision: Precision) -> Result<Profile> {
    let target = Target { precision, is_accelerator: device.info().is_accelerator() };
    let (setups, steps) = (grid::grid(target), args.steps.unwrap_or(7) as usize);
    let progress = Progress::new(&Terminal::detect());
    let start = Instant::now();
    let base_bytes = match target.is_accelerator {
        true => 0,
        false => ops::base_bytes(&ops::measure_step(&setups[0], device, 3)?, &setups[0]),
    };
    let links = if target.is_accelerator { Some(links_of(device)?) } else { None };
    let (mut measured, mut between) = (vec![], vec![]);
    for (done, setup) in setups.iter().enumerate() {
        progress.update("ops", done as u64, setups.len() as u64, || {
            let left_s = start.elapsed().as_secs_f64() / (done.max(1) as f64) * (setups.len() - done) as f64;
            format!("{}, {left_s:.0} s left", setup.name)
        });
        // A processor keeps the blocks that a setup frees, in the sizes of that setup.
        let fresh = if target.is_accelerator {
            device.clone()
        } else {
            opened(&args.device, args.threads, precision)?
        };
        let sample = ops::measure_ops(setup, &fresh, steps)?;
        between.push(Between { ops: sample.op_count as f64, bytes: sample.bytes, seconds: sample.between_s });
        measured.extend(points(&sample));
    }
    let info = device.info();
    let name = format!("{}, {}", args.device, info.description);
    let subject = Subject { device: name, threads: info.threads, precision, base_bytes, links };
    Ok(Profile::fit(subject, measured, &between))
}

fn links_of(device: &Device) -> Result<Links> {
    let links::Links { to_device_bytes_per_s, to_host_bytes_per_s, both_bytes_per_s } =
        links::measure(device)?;
    Ok(Links { to_device_bytes_per_s, to_host_bytes_per_s, both_bytes_per_s })
}

/// Prints the ops of one model's step.
fn of_model(args: &OpsArgs, model: &str) -> Result<()> {
    let (model, precision) = (model.into(), args.precision);
    let case = CaseArgs { model, micros: args.micros, sequences: None, sequence: None, precision };
    let Named { case, precision } = case.find()?;
    let device = opened(&args.device, args.threads, precision)?;
    let table = table::measure(&Setup::of(&case, precision), &device, args.steps.unwrap_or(3) as usize)?;
    if args.json { output::json(&table) } else { output::result(&text(&table)) }
}

fn text(table: &OpTable) -> String {
    let Ceilings { square, product_flops_per_s, copy_bytes_per_s } = table.ceilings;
    let mut text = format!(
        "{} in {}; {}\nproducts {:.2} TFLOP/s at {square} x {square}, copy {:.0} GB/s\n\n",
        table.model,
        table.precision.name(),
        table.device,
        product_flops_per_s / 1e12,
        copy_bytes_per_s / 1e9
    );
    text += "op                     form  sizes                          calls        ms   share  floor ms  \
             x floor  TFLOP/s    GB/s  host ms\n";
    text.extend(table.rows.iter().map(|row| {
        format!(
            "{:<22} {:<5} {:<30} {:>5} {:>9.3} {:>5.1} % {:>9.3} {:>8.1} {:>8.2} {:>7.0} {:>8.3}{}\n",
            row.op,
            row.form,
            row.sizes,
            row.calls,
            1e3 * row.seconds,
            100.0 * row.share,
            1e3 * row.floor_s,
            row.seconds / row.floor_s,
            row.flops_per_s / 1e12,
            row.bytes_per_s / 1e9,
            1e3 * row.enqueue_s,
            if row.waits { "  waits" } else { "" }
        )
    }));
    text + &format!(
        "\nops {:.2} ms, floor {:.2} ms; whole step {:.2} ms ({:.2} to {:.2}); the host enqueues them in \
         {:.2} ms and waits for the device {} times\n",
        1e3 * table.ops_s,
        1e3 * table.floor_s,
        1e3 * table.step_s.median,
        1e3 * table.step_s.least,
        1e3 * table.step_s.most,
        1e3 * table.enqueue_s,
        table.waits
    )
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
        enqueue_s: sample.enqueue_s,
        waits: sample.waits,
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
    if let Some(links) = &profile.links {
        text += &format!(
            "\nhost to device {:.1} GB/s, device to host {:.1}, both at once {:.1} together\n",
            links.to_device_bytes_per_s / 1e9,
            links.to_host_bytes_per_s / 1e9,
            links.both_bytes_per_s / 1e9
        );
    }
    text + &format!("\nwritten to {}\n", place.display())
}

/// Reads a profile.
pub fn read(path: &Path) -> Result<Profile> {
    let hint = "make a profile by `lingot bench ops`";
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::input(format!("cannot read {}: {error}", path.display()), hint))?;
    Profile::parse(&text)
        .map_err(|error| Failure::input(format!("{}: {}", path.display(), error.problem), error.hint))
}
