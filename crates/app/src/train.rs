//! `lingot train`: a RUN.toml in, a trained model out.

use crate::failure::{Failure, Result};
use crate::probe;
use crate::report::{Report, Sample, State};
use crate::room;
use crate::shell::{self, program};
use crate::terminal::{Progress, Terminal, count, show_stage};
use crate::watch::Watch;
use crate::{checkpoint, interrupt, output, prediction};
use lingot_data::{Batch, Dataset, Decoding, Tokenizer};
use lingot_device::Device;
use lingot_device::entry;
use lingot_spec::RunSpec;
use lingot_spec::event::Event;
use lingot_spec::run::DeviceSpec;
use lingot_train::checkpoint::{manifest, newest, verify};
use lingot_train::config::{self, Resolved};
use lingot_train::guard::stop;
use lingot_train::record::log::{self, History};
use lingot_train::resume;
use lingot_train::sample::{Bounds, Sampling, sample};
use lingot_train::step::{self, Summary};
use lingot_train::{data, evaluate};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Train the model that RUN.toml describes, or resume where its run stopped
///
/// The run's folder holds its data, checkpoints, log and TensorBoard files.
/// Ctrl-C finishes the step, saves a checkpoint and prints the command that resumes.
/// docs/run-toml.md documents every key of RUN.toml.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot train runs/quickstart.toml
  lingot train runs/shakespeare.toml --set stop.steps=500 --set device.threads=2
  lingot train runs/quickstart.toml --device cpu,torch:cuda:0
  lingot train runs/quickstart.toml --device cpu,cpu@0.5      (the second emulates half the speed)
  lingot train runs/quickstart.toml --profile profile.toml --price-as A100
  lingot train runs/quickstart.toml --json > result.json"
)]
pub struct Args {
    /// The description of the run
    #[arg(value_name = "RUN.toml")]
    run: PathBuf,
    /// Override a key of RUN.toml, such as stop.steps=500; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Train on these devices, or on `all`; replaces `devices` and `device.name` of RUN.toml
    #[arg(long, value_name = "DEVICE,...")]
    device: Option<String>,
    /// Predict time and cost from a profile of `lingot bench ops`, and report how they compare
    #[arg(long, value_name = "PROFILE.toml")]
    profile: Option<PathBuf>,
    /// Price every second like this chip of the catalogue; replaces `price` of RUN.toml
    #[arg(long, value_name = "CHIP")]
    price_as: Option<String>,
    /// Print the RUN.toml with all defaults filled in before training
    #[arg(long)]
    verbose: bool,
    /// Print the report as one JSON object; progress stays on standard error
    #[arg(long)]
    json: bool,
}

/// Tokens of held-out text at the beginning of the closing sample.
const PROMPT_TOKENS: usize = 16;

/// Tokens that the model adds to them.
const SAMPLE_TOKENS: usize = 80;

/// Trains. Returns whether the run was interrupted.
pub fn run(args: &Args, terminal: &Terminal) -> Result<bool> {
    interrupt::listen()?;
    let mut resolved = args.resolve()?;
    let run = resolved.run.clone();
    let run = &run;
    resume::check_folder(Path::new(&run.folder)).map_err(Failure::of_input)?;
    if let Some(report) = finished(run)? {
        report_done(args, run, &report)?;
        return Ok(false);
    }
    let profile = prediction::profile_of(run, args.profile.as_deref())?;
    let fleet = entry::parse_all(&run.devices).map_err(Failure::of_input)?;
    let device = checkpoint::open_device(&host(run))?;
    room::check(run, device.info())?;
    announce(&resolved, &device, args.verbose, terminal);
    let dataset = prepare(run, terminal)?;
    resolved.prediction = prediction::prediction(run, &dataset, profile.as_ref());

    let mut watch = Watch::new(run, terminal);
    interrupt::training_begins();
    let mut listen = |event: &Event| watch.event(event);
    let done = if run.devices.is_empty() {
        step::train(&resolved, &dataset, &device, &mut listen, &interrupt::REQUESTED)
    } else {
        let open = entry::opener(run, &fleet);
        step::train_fleet(&resolved, &dataset, open, &mut listen, &interrupt::REQUESTED)
    };
    interrupt::training_ends();
    watch.finish();
    let summary = done?;
    conclude(args, run, &dataset, &device, &summary)?;
    Ok(summary.interrupted)
}

impl Args {
    /// The run with its overrides; `all` becomes the list of devices found on this machine.
    fn resolve(&self) -> Result<Resolved> {
        let load = |overrides: &[String]| config::load(&self.run, overrides).map_err(Failure::of_input);
        let mut overrides = self.overrides()?;
        let resolved = load(&overrides)?;
        if resolved.run.devices != ["all"] {
            return Ok(resolved);
        }
        overrides.push(format!("devices={:?}", probe::all()?));
        load(&overrides)
    }

    /// The overrides of `--set`, `--price-as` and `--device`.
    fn overrides(&self) -> Result<Vec<String>> {
        let mut all = self.price_as.as_deref().map(prediction::price_as).transpose()?.unwrap_or_default();
        all.extend(self.set.iter().cloned());
        if let Some(list) = &self.device {
            all.push(format!("devices={:?}", entry::split(list)));
        }
        Ok(all)
    }
}

/// The device that holds the weights: `device.name`, and for a fleet, whatever `device.name` says, the
/// processor.
fn host(run: &RunSpec) -> DeviceSpec {
    let mut spec = run.device.clone();
    if !run.devices.is_empty() {
        spec.name = DeviceSpec::default().name;
    }
    spec
}

/// Says on standard error what will happen.
fn announce(resolved: &Resolved, device: &Device, is_verbose: bool, terminal: &Terminal) {
    let run = &resolved.run;
    let model = &run.model;
    let tokens = run.stop.steps as f64 * f64::from(run.batch.sequences) * f64::from(run.data.sequence);
    let paths: Vec<&str> = run.data.corpora.iter().map(|corpus| corpus.path.as_str()).collect();
    let info = device.info();
    let lines = [
        ("run", format!("{} in {}", run.name, run.folder)),
        (
            "model",
            format!(
                "{} parameters, {} activated per token; {} layers, {} of {} experts",
                count((model.parameters() + model.mtp_parameters()) as f64),
                count(model.activated_parameters() as f64),
                model.layers,
                model.choices,
                model.experts
            ),
        ),
        ("data", paths.join(", ")),
        (
            "training",
            format!(
                "{} steps of {} x {} tokens, {} tokens in all",
                run.stop.steps,
                run.batch.sequences,
                run.data.sequence,
                count(tokens)
            ),
        ),
        match run.devices.as_slice() {
            [] => ("device", format!("{}: {}", info.name, info.description)),
            devices => ("devices", devices.join(", ")),
        },
    ];
    for (name, value) in lines {
        output::labelled(&terminal.bold(&format!("{name:<9}")), &value);
    }
    for note in &run.notes {
        output::labelled(&terminal.bold(&format!("{:<9}", "note")), note);
    }
    if is_verbose {
        output::draw(&format!("\n{}\n", terminal.dim(resolved.toml.trim_end())));
    }
    output::notice("");
}

/// Makes or opens tokenizer and shards. Every failure here is one of the input.
fn prepare(run: &RunSpec, terminal: &Terminal) -> Result<Dataset> {
    let progress = Progress::new(terminal);
    let folder = PathBuf::from(&run.folder);
    let existed = folder.exists();
    let made = data::prepare_data(run, &|stage| show_stage(&progress, stage));
    progress.finish();
    for note in made.iter().flat_map(|dataset| dataset.notes()) {
        output::notice(&format!("note: {note}"));
    }
    made.map_err(|error| {
        if !existed {
            // A refused run leaves nothing behind; this removes the folder only if it is empty.
            let _ = std::fs::remove_dir(&folder);
        }
        Failure::of_input(error)
    })
}

/// The report of a run that an earlier process has finished; none where there is something left to do.
fn finished(run: &RunSpec) -> Result<Option<Report>> {
    let folder = Path::new(&run.folder);
    let Some((_, path)) = newest::list(&folder.join("checkpoints")).ok().and_then(|mut all| all.pop()) else {
        return Ok(None);
    };
    let Ok(found) = manifest::read(&path) else {
        return Ok(None); // Training reports what is wrong with it, or falls back to an older one.
    };
    let head = found.head;
    if manifest::check_model(&path, &head.model, &run.model).is_err() || head.seed != run.seed {
        return Ok(None);
    }
    let History { events, unreadable } = log::read_all(folder).unwrap_or_default();
    let loss = log::last_held_out(&events, head.step).map(|(loss, _)| loss);
    let ended = matches!(events.last(), Some(Event::End(end)) if end.step == head.step);
    let at = stop::Progress {
        step: head.step,
        tokens: head.tokens,
        hours: head.seconds / 3600.0,
        money: head.money,
        loss,
    };
    // Every byte is verified only where nothing is left to do: a run that resumes verifies its checkpoint
    // itself.
    let is_sound = |_: &stop::StopReason| ended && verify(&path).is_ok();
    let reason = stop::why_stop(&run.stop, &at).filter(is_sound);
    Ok(reason.map(|reason| {
        unreadable.iter().for_each(|line| warn(line));
        let state = State {
            reason: reason.to_string(),
            interrupted: false,
            already_done: true,
            checkpoint: &path,
            step: head.step,
            tokens: head.tokens,
            seconds: head.seconds,
            money: head.money,
        };
        Report::new(run, state, &events, None)
    }))
}

fn report_done(args: &Args, run: &RunSpec, report: &Report) -> Result<()> {
    if args.json {
        return output::json(report);
    }
    output::result(&format!(
        "{}: {}; there is nothing left to do\n\ncheckpoint     {}\n\n\
         to train further, raise the limit: --set stop.steps={}\n\
         to start anew, remove {} or choose another `folder`\n",
        run.name,
        report.reason,
        report.checkpoint,
        2 * run.stop.steps,
        run.folder
    ))
}

fn conclude(args: &Args, run: &RunSpec, dataset: &Dataset, device: &Device, summary: &Summary) -> Result<()> {
    for warning in &summary.warnings {
        warn(warning);
    }
    // The run is done and saved: what is only shown of it may fail.
    let sample = if summary.interrupted {
        None
    } else {
        let made = closing_sample(run, dataset, device, summary);
        made.map_err(|failure| warn(&format!("there is no closing sample: {}", failure.problem))).ok()
    };
    let state = State {
        reason: summary.reason.clone(),
        interrupted: summary.interrupted,
        already_done: false,
        checkpoint: &summary.checkpoint,
        step: summary.step,
        tokens: summary.tokens,
        seconds: summary.seconds,
        money: summary.money,
    };
    let events = log::read(Path::new(&run.folder)).unwrap_or_else(|error| {
        warn(&format!("the report lacks what the log says: {}", error.problem));
        Vec::new()
    });
    let report = Report::new(run, state, &events, sample);
    if summary.interrupted {
        let set: String =
            args.overrides()?.iter().map(|set| format!(" --set {}", shell::word(set))).collect();
        output::notice(&format!(
            "stopped after step {} of {}, saved in {}\nto resume: {} train {}{set}",
            summary.step,
            run.stop.steps,
            summary.checkpoint.display(),
            program(),
            shell::word(&args.run.display().to_string())
        ));
    }
    let written = match args.json {
        true => output::json(&report),
        false if summary.interrupted => Ok(()),
        false => report.print(run, &events),
    };
    if let (true, Err(failure)) = (summary.interrupted, &written) {
        // Scripts recognise an interrupted run by its exit code, even if its report is lost.
        output::notice(&failure.problem);
        return Ok(());
    }
    written
}

fn warn(text: &str) {
    output::labelled(&Terminal::detect().yellow("warning:"), text);
}

/// Lets the model continue the beginning of a held-out document.
fn closing_sample(run: &RunSpec, dataset: &Dataset, device: &Device, summary: &Summary) -> Result<Sample> {
    let tokenizer = Tokenizer::load(&data::data_folder(run).join("tokenizer.json"))?;
    let end = tokenizer.end_of_document();
    let prompt = beginning(&dataset.validation(0, 16)?);
    let (model, _) = evaluate::load_model(&summary.checkpoint, device)?;
    let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: run.seed };
    let bounds = Bounds { tokens: SAMPLE_TOKENS, vocabulary: tokenizer.vocabulary() as usize, ends: &[end] };
    let mut decoding = Decoding::new(&tokenizer);
    let mut shown = String::new();
    for &token in &prompt {
        shown += &decoding.push(token);
    }
    let mut text = String::new();
    sample(&model, &prompt, &sampling, bounds, &mut |token| {
        text += &decoding.push(token);
        ControlFlow::Continue(())
    })?;
    text += &decoding.finish();
    Ok(Sample { prompt: shown, text })
}

/// The first tokens of the last document of the batch that is long enough and begins inside a row; without
/// one, the first tokens of the batch.
fn beginning(batch: &Batch) -> Vec<u32> {
    let begins = |first: &usize| {
        let is_first = batch.positions[*first] == 0 && !first.is_multiple_of(batch.sequence);
        is_first && batch.targets[*first..].iter().take(PROMPT_TOKENS).all(|&target| target >= 0)
    };
    let first = (0..batch.tokens.len().saturating_sub(PROMPT_TOKENS)).rev().find(begins).unwrap_or(0);
    batch.tokens[first..].iter().take(PROMPT_TOKENS).map(|&token| token as u32).collect()
}
