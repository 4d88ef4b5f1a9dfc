//! `lingot import`: a Hugging Face folder becomes a checkpoint, with what is needed to export it again bit
//! for bit.

use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::shell::{self, program};
use crate::terminal::count;
use lingot_formats::hugging_face::{ElementType, Imported, Kept, copy_tokenizer, import};
use lingot_formats::new_folder::NewFolder;
use lingot_spec::Problem;
use lingot_spec::manifest::ManifestHead;
use lingot_train::checkpoint::{Named, Tensor, save_as};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Read a Hugging Face folder into a checkpoint
///
/// Its model_type may be any format that `lingot export --help` lists, GGUF aside.
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
    /// The folder of config.json, *.safetensors and the tokenizer
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The new folder; it may exist if it is empty
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What an imported checkpoint remembers of the folder it came from.
#[derive(Serialize, Deserialize)]
pub struct Origin {
    /// The element type of most tensors.
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
    notes: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let folder = NewFolder::begin(&args.out)?;
    // A folder that cannot be imported is wrong input, whatever is wrong with it.
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
        notes: imported.notes.clone(),
    };
    write(imported, folder.path())?;
    folder.commit("manifest.json")?;
    if args.json { output::json(&report) } else { report.print() }
}

/// What an import remembers; none for a checkpoint that was trained here.
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
        text.extend(self.notes.iter().map(|note| format!("note: {note}\n")));
        text += &format!("\nnext: {} generate {} --prompt \"Once\"\n", program(), shell::word(&self.folder));
        output::result(&text)
    }
}

fn write(imported: Imported, folder: &Path) -> Result<()> {
    let head = ManifestHead {
        lingot: env!("CARGO_PKG_VERSION").into(),
        step: 0,
        tokens: 0,
        samples: None,
        seconds: 0.0,
        money: None,
        seed: 0,
        model: imported.model,
        run: String::new(),
        data: None,
        guard: None,
        merged: Vec::new(),
    };
    save_as(folder, head, &named(&imported.tensors), &[], &named(&imported.buffers))?;
    if let Some(tokenizer) = &imported.tokenizer {
        copy_tokenizer(tokenizer, folder)?;
    }
    let ends = imported.kept.ends();
    if !ends.is_empty() {
        // The tokenizer's own files may not name its end.
        write_json(&folder.join("generation_config.json"), &serde_json::json!({ "eos_token_id": ends }))?;
    }
    let origin = Origin { element_type: imported.element_type, kept: imported.kept };
    write_json(&folder.join(ORIGIN), &origin)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Problem::bug(format!("{} cannot be written: {error}", path.display())))?;
    fs::write(path, text).map_err(|error| Failure::io("write", path, &error))
}

fn named(tensors: &[Tensor]) -> Vec<Named<'_>> {
    tensors.iter().map(|(name, shape, values)| Named { name, shape, values }).collect()
}
