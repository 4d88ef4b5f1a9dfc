//! `lingot import`: a Hugging Face folder as a checkpoint of ours, with what is needed to export it again bit
//! for bit.

use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::report::program;
use crate::terminal::count;
use lingot_formats::hugging_face::{ElementType, Imported, Kept, copy_tokenizer, import};
use lingot_spec::manifest::ManifestHead;
use lingot_train::checkpoint::{Named, Tensor, save_as};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Read a Hugging Face folder into a checkpoint
///
/// Formats: qwen3_moe, glm4_moe, bailing_moe, bailing_moe_v2.
/// `generate`, `eval` and `export` take the new folder.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot import models/Ling-mini-2.0 --out imported
  lingot generate imported --prompt \"Once\""
)]
pub struct Args {
    /// Holds config.json, *.safetensors and the tokenizer
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The new folder
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What an imported checkpoint remembers of where it came from.
#[derive(Serialize, Deserialize)]
pub struct Origin {
    /// The type of most of its numbers.
    pub element_type: ElementType,
    pub kept: Kept,
}

/// The file of `Origin` in a checkpoint.
const ORIGIN: &str = "import.json";

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    folder: String,
    format: &'static str,
    dtype: ElementType,
    tensors: usize,
    parameters: u64,
    activated_parameters: u64,
    has_tokenizer: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if args.out.exists() {
        return Err(Failure::input(
            format!("{} exists already", args.out.display()),
            "name a folder that does not exist; an import never overwrites",
        ));
    }
    let imported = import(&args.folder).map_err(|error| Failure::from(error).with(Code::Input))?;
    let model = &imported.model;
    let report = Report {
        folder: args.out.display().to_string(),
        format: imported.format.name(),
        dtype: imported.element_type,
        tensors: imported.tensors.len() + imported.buffers.len(),
        parameters: model.parameters() + model.mtp_parameters(),
        activated_parameters: model.activated_parameters(),
        has_tokenizer: imported.tokenizer.is_some(),
    };
    write(imported, &args.out)?;
    if args.json { output::json(&report) } else { report.print() }
}

/// What was kept of an import; none for a checkpoint that was trained here.
pub fn origin_of(checkpoint: &Path) -> Result<Option<Origin>> {
    let path = checkpoint.join(ORIGIN);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(|error| Failure::io("read", &path, &error))?;
    let origin = serde_json::from_slice(&bytes);
    let hint = "import the model again";
    origin.map(Some).map_err(|error| Failure::input(format!("{} is damaged: {error}", path.display()), hint))
}

impl Report {
    fn print(&self) -> Result<()> {
        let (total, activated) = (count(self.parameters as f64), count(self.activated_parameters as f64));
        let mut text = format!(
            "imported {} into {}: {total} parameters, {activated} activated per token\n",
            self.format, self.folder
        );
        if !self.has_tokenizer {
            text += "it has no tokenizer.json; give one to `generate` and `eval` with --tokenizer\n";
        }
        text += &format!("\nnext: {} generate {} --prompt \"Once\"\n", program(), self.folder);
        output::result(&text)
    }
}

/// Everything beside the place, then one rename.
fn write(imported: Imported, out: &Path) -> Result<()> {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".importing");
    let aside = out.with_file_name(name);
    let written = write_aside(imported, &aside)
        .and_then(|()| fs::rename(&aside, out).map_err(|error| Failure::io("rename", &aside, &error)));
    if written.is_err() {
        // Nothing half-written stays; the error that matters is the first one.
        let _ = fs::remove_dir_all(&aside);
    }
    written
}

fn write_aside(imported: Imported, aside: &Path) -> Result<()> {
    let head = ManifestHead {
        lingot: env!("CARGO_PKG_VERSION").into(),
        step: 0,
        tokens: 0,
        seconds: 0.0,
        money: None,
        seed: 0,
        model: imported.model,
        run: String::new(),
        merged: Vec::new(),
    };
    save_as(aside, head, &named(&imported.tensors), &[], &named(&imported.buffers))?;
    if let Some(tokenizer) = &imported.tokenizer {
        copy_tokenizer(tokenizer, aside)?;
    }
    let origin = Origin { element_type: imported.element_type, kept: imported.kept };
    let path = aside.join(ORIGIN);
    let text = serde_json::to_string_pretty(&origin)
        .map_err(|error| Failure::input(format!("cannot write JSON: {error}"), "this is a bug; report it"))?;
    fs::write(&path, text).map_err(|error| Failure::io("write", &path, &error))
}

fn named(tensors: &[Tensor]) -> Vec<Named<'_>> {
    tensors.iter().map(|(name, shape, values)| Named { name, shape, values }).collect()
}
