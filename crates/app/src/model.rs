//! `lingot model`: the size of a model, and what training it takes.

use crate::failure::{Failure, Result};
use crate::output;
use crate::terminal::{bytes, count, flops};
use lingot_spec::ModelSpec;
use lingot_spec::presets::{NAMES, preset};
use lingot_train::config;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Show a model's parameters, FLOPs per token and training memory, or list the presets
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot model
  lingot model ling-plus
  lingot model runs/quickstart.toml --json"
)]
pub struct Args {
    /// A preset or a RUN.toml; without one, all presets are listed
    #[arg(value_name = "PRESET | RUN.toml")]
    model: Option<String>,
    /// Override a key of RUN.toml, such as model.layers=12; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Count the work of attention for sequences of TOKENS [default: as in RUN.toml, or 4096]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    sequence: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The sequence length in tokens where neither run nor user gives one.
const USUAL_SEQUENCE: u32 = 4096;

/// The object of `--json`.
#[derive(Serialize)]
struct Figures {
    name: String,
    layers: u32,
    /// Parameters without the multi-token-prediction layer.
    parameters: u64,
    activated_parameters: u64,
    /// Activated parameters without embedding and head.
    activated_body_parameters: u64,
    mtp_parameters: u64,
    /// The sequence length, in tokens, that `flops_per_token` is for.
    sequence: u32,
    /// FLOPs of forward and backward pass.
    flops_per_token: f64,
    /// Bytes of weights, gradients and optimizer state in f32.
    bytes_to_train: u64,
    model: ModelSpec,
}

/// The object of `--json` without a model.
#[derive(Serialize)]
struct Presets {
    presets: Vec<Figures>,
}

pub fn run(args: &Args) -> Result<()> {
    let is_preset = args.model.as_deref().is_none_or(|name| preset(name).is_some());
    if let Some(set) = args.set.first().filter(|_| is_preset) {
        return Err(Failure::input(
            format!("--set {set} changes a RUN.toml, and none is named"),
            "name a RUN.toml whose `model.preset` is this preset",
        ));
    }
    let Some(name) = &args.model else {
        let presets = NAMES.iter().filter_map(|name| {
            Some(Figures::new((*name).into(), preset(name)?, args.sequence.unwrap_or(USUAL_SEQUENCE)))
        });
        let presets: Vec<Figures> = presets.collect();
        return if args.json { output::json(&Presets { presets }) } else { list(&presets) };
    };
    let figures = match preset(name) {
        Some(model) => Figures::new(name.clone(), model, args.sequence.unwrap_or(USUAL_SEQUENCE)),
        None => from_run(name, args)?,
    };
    if args.json { output::json(&figures) } else { figures.print() }
}

fn from_run(name: &str, args: &Args) -> Result<Figures> {
    let path = PathBuf::from(name);
    if !Path::new(name).exists() && !name.ends_with(".toml") {
        return Err(Failure::input(
            format!("`{name}` is neither a preset nor a file"),
            format!("the presets are {}", NAMES.join(", ")),
        ));
    }
    let run = config::load(&path, &args.set).map_err(Failure::of_input)?.run;
    Ok(Figures::new(run.name, run.model, args.sequence.unwrap_or(run.data.sequence)))
}

impl Figures {
    fn new(name: String, model: ModelSpec, sequence: u32) -> Figures {
        Figures {
            name,
            layers: model.layers,
            parameters: model.parameters(),
            activated_parameters: model.activated_parameters(),
            activated_body_parameters: model.activated_body_parameters(),
            mtp_parameters: model.mtp_parameters(),
            sequence,
            flops_per_token: model.flops_per_token(sequence),
            bytes_to_train: model.bytes_to_train(),
            model,
        }
    }

    fn print(&self) -> Result<()> {
        let model = &self.model;
        let mut rows = vec![
            ("parameters", figure(self.parameters)),
            ("activated", format!("{} per token", figure(self.activated_parameters))),
        ];
        if self.mtp_parameters > 0 {
            rows.push((
                "prediction",
                format!("{} more in the multi-token-prediction layer", figure(self.mtp_parameters)),
            ));
        }
        rows.extend([
            (
                "work",
                format!(
                    "{} per token, forward and backward, at {} tokens",
                    flops(self.flops_per_token),
                    self.sequence
                ),
            ),
            (
                "to train",
                format!("{} for weights, gradients and optimizer state", bytes(self.bytes_to_train)),
            ),
            ("vocabulary", model.vocabulary.to_string()),
            ("width", model.width.to_string()),
            ("layers", format!("{}, of which {} dense", model.layers, model.dense_layers)),
            (
                "attention",
                format!(
                    "{} query heads, {} key and value heads, {} wide",
                    model.heads, model.kv_heads, model.head_width
                ),
            ),
            (
                "experts",
                format!(
                    "{} of width {}, {} chosen per token, {} shared",
                    model.experts, model.expert_width, model.choices, model.shared_experts
                ),
            ),
        ]);
        let rows: String = rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
        output::result(&format!("{:<12} {}\n{rows}", "model", self.name))
    }
}

fn list(presets: &[Figures]) -> Result<()> {
    let mut text = format!("{:<15} {:>10} {:>10} {:>10}\n", "preset", "parameters", "activated", "to train");
    for figures in presets {
        text += &format!(
            "{:<15} {:>10} {:>10} {:>10}\n",
            figures.name,
            count(figures.parameters as f64),
            count(figures.activated_parameters as f64),
            bytes(figures.bytes_to_train)
        );
    }
    output::result(&text)
}

/// A number of parameters with four or five digits, as papers print it.
fn figure(parameters: u64) -> String {
    let number = parameters as f64;
    match number {
        ..1e6 => parameters.to_string(),
        1e6..1e9 => format!("{:.3} M", number / 1e6),
        1e9..1e11 => format!("{:.3} B", number / 1e9),
        _ => format!("{:.1} B", number / 1e9),
    }
}
