//! `lingot align`: whether two devices compute the same thing, and the certificate of it.

mod like;

use crate::checkpoint::open_device;
use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::plot;
use crate::terminal::{Progress, Terminal};
use lingot_align::certificate::{Certificate, OpReport, PageFile, Side, by_op};
use lingot_align::curve::{self, CurvePlan, CurveReport};
use lingot_align::run::{self as earlier, RunPlan};
use lingot_align::scope::{Levels, Scope};
use lingot_align::step::Steps;
use lingot_align::{modules, self_test};
use lingot_device::conformance::wide::{Shapes, Wide};
use lingot_device::reference::Reference;
use lingot_device::{Device, Precision, conformance};
use lingot_spec::Problem;
use lingot_spec::run::DeviceSpec;
use lingot_train::config;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Prove that two devices compute the same thing, or name the first op that differs
///
/// Level `ops` compares every op with its definition in f64, `modules` the ops of a training
/// step with those of the reference device on the same inputs, `step` some whole steps with
/// f64, `curve` the losses of a whole training, and `move` a training that changes from one
/// device to the other halfway. The certificate says what it vouches for and what it does not.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub struct Args {
    /// Trust this device
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    reference: String,
    /// Test this device; `lingot devices` lists those of this machine
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Compute on tensors of this type [default: f32, or that of the run]
    #[arg(long, value_parser = crate::precisions())]
    precision: Option<Precision>,
    /// Compute on tensors of this type on the reference device [default: as --precision]
    #[arg(long, value_parser = crate::precisions())]
    reference_precision: Option<Precision>,
    /// Compare at this level
    #[arg(long, value_enum, default_value = "all")]
    level: Level,
    /// Train N steps for the curve and the move; the wide model takes a tenth [default: 1000]
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Draw weights and data from this seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Train N seeds, --seed included, to measure how much chance alone makes curves differ
    #[arg(long, value_name = "N", default_value = "3", value_parser = crate::counts())]
    seeds: u64,
    /// Train this run again on the device, and compare it with the run's log
    #[arg(
        long,
        value_name = "FOLDER",
        conflicts_with_all = ["self_test", "reference", "reference_precision", "level", "steps", "seed"]
    )]
    run: Option<PathBuf>,
    /// Go through all levels but the move in about a minute: 200 steps of one seed for the curve
    #[arg(
        long,
        conflicts_with_all = ["self_test", "run", "like", "level", "steps", "seeds"],
    )]
    quick: bool,
    /// Check the ops at the sizes of this RUN.toml or preset, and nothing else
    #[arg(
        long,
        value_name = "RUN.toml|PRESET",
        conflicts_with_all = ["self_test", "run", "reference_precision", "level", "steps", "seeds"]
    )]
    like: Option<String>,
    /// Use N threads of the processor; 0 for all of them
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = crate::threads())]
    threads: u32,
    /// Plant faults in the device, one at a time, and check that each is caught and located
    #[arg(
        long,
        conflicts_with_all = ["reference", "reference_precision", "level", "steps", "seed", "seeds", "out"]
    )]
    self_test: bool,
    /// Write the certificate, its page and its plots into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  lingot align --level ops --device cpu
  lingot align --reference cpu --device torch:cpu --steps 2000 --out out/certificate
  lingot align --reference-precision f32 --precision bf16 --level curve --steps 2000
  lingot align --like ling-mini-2.0 --device torch:cpu
  lingot align --device torch:cuda:0 --precision bf16 --quick
  lingot align --run out/quickstart --device torch:cuda:0 --precision bf16
  lingot align --self-test --json

Exit codes: 0 aligned, 1 not aligned, 2 wrong input, 3 no device or no memory.";

/// Steps of the curve with `--quick`.
const QUICK_STEPS: u64 = 200;

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// Every op with its definition
    Ops,
    /// The ops of a training step
    Modules,
    /// Some whole steps, with optimizer and routers, with f64
    Step,
    /// The losses of a training
    Curve,
    /// The losses of a training that changes the device
    Move,
    /// All of these
    All,
}

/// Runs the comparison; the exit code says whether everything passed.
pub fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode> {
    if let Some(steps @ 0..2) = args.steps {
        let problem = format!("--steps is {steps}");
        return Err(Failure::input(problem, "give at least 2 steps, and 1000 for a meaningful certificate"));
    }
    let progress = Progress::new(terminal);
    let passed = match &args.run {
        _ if args.self_test => test_itself(args, &progress)?,
        Some(folder) => certify_run(args, folder, &progress)?,
        None if args.like.is_some() => certify_sizes(args, &progress)?,
        None => certify(args, &progress)?,
    };
    Ok(if passed { ExitCode::SUCCESS } else { Code::Failed.into() })
}

fn open(args: &Args, name: &str, precision: Precision) -> Result<Device> {
    let spec = DeviceSpec { name: name.into(), threads: args.threads, precision, ..DeviceSpec::default() };
    open_device(&spec)
}

fn side(device: &Device) -> Side {
    Side { device: device.info().name.clone(), description: device.info().description.clone() }
}

fn certify(args: &Args, progress: &Progress) -> Result<bool> {
    let precision = args.precision.unwrap_or_default();
    let trusted = args.reference_precision.unwrap_or(precision);
    let (reference, device) = (open(args, &args.reference, trusted)?, open(args, &args.device, precision)?);
    let tell =
        &mut |label: &str, done, total| progress.update(label, done, total, || format!("{done}/{total}"));
    let has = |level| match args.level {
        Level::All => level != Level::Move || !args.quick,
        one => one == level,
    };
    let mut certificate = blank(args, precision, side(&reference), side(&device));
    let shapes = Shapes::reaching(&device.boundaries());
    if has(Level::Ops) {
        certificate.ops = ops(&device, precision, &shapes, tell)?;
    }
    if has(Level::Modules) {
        certificate.modules =
            modules::check(&reference, &device, [trusted, precision], args.seed, None, tell)?;
    }
    if has(Level::Step) {
        certificate.step = Steps::new(precision, args.seed, tell)?.check(&device, None, tell)?;
    }
    let (steps, seeds) = if args.quick { (QUICK_STEPS, 1) } else { (args.steps.unwrap_or(1000), args.seeds) };
    let precisions = [trusted, precision];
    let plan = CurvePlan { steps, seed: args.seed, precisions, planted: None, seeds };
    let starts =
        [(Level::Curve, 0), (Level::Move, steps / 2)].map(|(level, start)| has(level).then_some(start));
    let asked: Vec<u64> = starts.iter().flatten().copied().collect();
    if !asked.is_empty() {
        let mut found = curve::check(&reference, &device, plan, &asked, tell)?.into_iter();
        [certificate.curve, certificate.moved] =
            starts.map(|start| start.and_then(|_| found.next()).unwrap_or_default());
    }
    certificate.scope = scope(&device, precision, &certificate, Some(&shapes), None);
    conclude(args, certificate, args.out.as_deref())
}

/// Level *ops* at the sizes of a run or a preset.
fn certify_sizes(args: &Args, progress: &Progress) -> Result<bool> {
    let like = like::read(args.like.as_deref().unwrap_or_default())?;
    let precision = args.precision.unwrap_or(like.precision);
    let device = open(args, &args.device, precision)?;
    let tell =
        &mut |label: &str, done, total| progress.update(label, done, total, || format!("{done}/{total}"));
    let definitions = side(&Device::new(Reference::new()));
    let mut certificate = blank(args, precision, definitions, side(&device));
    certificate.ops = ops(&device, precision, &like.shapes, tell)?;
    certificate.scope = scope(&device, precision, &certificate, Some(&like.shapes), Some(&like.name));
    conclude(args, certificate, args.out.as_deref())
}

/// Level *ops*: small odd shapes, and large ones.
fn ops(
    device: &Device,
    precision: Precision,
    shapes: &Shapes,
    tell: &mut dyn FnMut(&str, u64, u64),
) -> Result<Vec<OpReport>> {
    let told = &mut |done, total| tell("ops", done as u64, total as u64);
    let mut verdicts = conformance::check_on(device, precision, told)?;
    let told = &mut |done, total| tell("large ops", done as u64, total as u64);
    verdicts.extend(Wide::new(shapes, precision).check(device, told)?);
    Ok(by_op(&verdicts))
}

fn scope(
    device: &Device,
    precision: Precision,
    certificate: &Certificate,
    shapes: Option<&Shapes>,
    like: Option<&str>,
) -> Scope {
    let steps = |curves: &[CurveReport]| curves.iter().map(|curve| curve.steps).max().unwrap_or_default();
    let levels = Levels {
        ops: &certificate.ops,
        shapes,
        like,
        has_modules: !certificate.modules.is_empty(),
        step: &certificate.step,
        curve_steps: [steps(&certificate.curve), steps(&certificate.moved)],
    };
    Scope::of(device, precision, levels)
}

/// Certifies a run. Its trainings, the certificate and its page go into `--out`, by default `align` in the
/// run's folder.
fn certify_run(args: &Args, folder: &Path, progress: &Progress) -> Result<bool> {
    let out = args.out.clone().unwrap_or_else(|| folder.join("align"));
    if !folder.join("run.toml").is_file() {
        let problem = format!("{} is not the folder of a run: it has no run.toml", folder.display());
        return Err(Failure::input(problem, "name a folder that `lingot train` has written"));
    }
    let own = config::load(&folder.join("run.toml"), &[])?.run.device.precision;
    let precision = args.precision.unwrap_or(own);
    let plan = RunPlan {
        folder: folder.into(),
        out: out.clone(),
        device: args.device.clone(),
        precision,
        threads: args.threads,
        seeds: args.seeds,
    };
    let tell =
        &mut |label: &str, done, total| progress.update(label, done, total, || format!("{done}/{total}"));
    let again = earlier::check(&plan, tell)?;
    let reference_precision = (own != precision).then(|| own.name().to_owned());
    let blank = blank(args, precision, again.reference, again.candidate);
    let blank = Certificate { reference_precision, ..blank };
    conclude(args, Certificate { curve: vec![again.curve], ..blank }, Some(&out))
}

fn blank(args: &Args, precision: Precision, reference: Side, candidate: Side) -> Certificate {
    let name = |precision: Precision| precision.name().to_owned();
    Certificate {
        format: 2,
        lingot: env!("CARGO_PKG_VERSION").into(),
        reference,
        candidate,
        precision: name(precision),
        reference_precision: args.reference_precision.map(name),
        seed: args.seed,
        ops: vec![],
        modules: vec![],
        step: vec![],
        curve: vec![],
        moved: vec![],
        scope: Scope::default(),
        passed: false,
        fault: None,
    }
}

fn conclude(args: &Args, certificate: Certificate, folder: Option<&Path>) -> Result<bool> {
    let certificate = certificate.judge();
    if let Some(folder) = folder {
        write(folder, &certificate)?;
    }
    if args.json {
        output::json(&certificate)?;
    } else {
        output::result(&text(&certificate))?;
    }
    Ok(certificate.passed)
}

fn text(certificate: &Certificate) -> String {
    let mut text = certificate.tables("#");
    for curve in certificate.curve.iter().chain(&certificate.moved) {
        text += &format!("Loss of {}: line reference, circles candidate\n{}\n", curve.model, drawn(curve));
    }
    let verdict = if certificate.passed { "aligned" } else { "NOT aligned" };
    let (a, b) = (&certificate.reference.device, &certificate.candidate.device);
    text += &format!("{b} with {a} in {}: {verdict}\n", certificate.precisions());
    if let Some(fault) = &certificate.fault {
        text += &format!("First at fault: {fault}\n");
    }
    text
}

fn drawn(curve: &CurveReport) -> String {
    let points = |losses: &[f64], every: usize| -> Vec<(u64, f64)> {
        let of_step = |(index, &loss): (usize, &f64)| (index as u64 * curve.every, loss);
        losses.iter().enumerate().step_by(every).map(of_step).collect()
    };
    plot::losses(&points(&curve.reference, 1), &points(&curve.candidate, (curve.candidate.len() / 12).max(1)))
}

fn write(folder: &Path, certificate: &Certificate) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    let json = serde_json::to_string(certificate)
        .map_err(|error| Problem::bug(format!("cannot write JSON: {error}")))?;
    let whole = PageFile { name: "certificate.json".into(), content: json + "\n" };
    for PageFile { name, content } in std::iter::once(whole).chain(certificate.page()) {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|error| Failure::io("write", &path, &error))?;
    }
    Ok(())
}

fn test_itself(args: &Args, progress: &Progress) -> Result<bool> {
    let precision = args.precision.unwrap_or_default();
    let device = open(args, &args.device, precision)?;
    let tell =
        &mut |label: &str, done, total| progress.update(label, done, total, || format!("{done}/{total}"));
    let found = self_test::run(&device, precision, tell)?;
    if args.json {
        output::json(&found)?;
        return Ok(found.passed);
    }
    let mut text = format!("{:<56} {:<8} {:<7} place\n", "planted", "level", "caught");
    for trial in &found.trials {
        let level = trial.level.map_or("none", lingot_align::faults::Level::name);
        let caught = if trial.caught { "yes" } else { "NO" };
        text += &format!("{:<56} {level:<8} {caught:<7} {}\n", trial.name, trial.place);
    }
    let clean = if found.clean { "passes" } else { "FAILS" };
    text += &format!("{} of {} caught; with none planted it {clean}\n", found.caught, found.planted);
    output::result(&text)?;
    Ok(found.passed)
}
