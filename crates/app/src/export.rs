//! `lingot export`: a trained model as a Hugging Face folder.

use crate::checkpoint;
use crate::failure::{Failure, Result};
use crate::import::{Origin, origin_of};
use crate::output;
use crate::terminal::bytes;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lingot_formats::hugging_face::{ElementType, Exported, Format, Source, Target, export, fitting};
use lingot_train::checkpoint::load_weights;
use serde::Serialize;
use std::path::PathBuf;

/// Write a model as a Hugging Face folder
///
/// It holds safetensors, config.json, generation_config.json and the tokenizer, so that
/// `transformers` and inference engines open it. What a format cannot express is refused.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot export out/quickstart --format bailing_moe_v2 --out exported
  lingot export out/quickstart/checkpoints/step-00000400 --format glm4_moe --dtype bf16 --out exported"
)]
pub struct Args {
    /// A run's folder, a checkpoint in it, or an imported model
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Write this architecture [default: the imported one, or the first that fits]
    #[arg(long, value_parser = formats())]
    format: Option<Format>,
    /// The new folder; it may exist if it is empty
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Store numbers in this type [default: as imported, or f32]
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Start another file of weights before one holds more than this many megabytes
    #[arg(long, value_name = "MB", default_value_t = 5000)]
    shard: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

/// Where nothing says how long a text the model can read.
const USUAL_CONTEXT: u32 = 4096;

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    checkpoint: String,
    folder: String,
    format: &'static str,
    dtype: ElementType,
    files: Vec<String>,
    tensors: usize,
    bytes: u64,
    norm_head_folded: bool,
    has_tokenizer: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let found = checkpoint::find(&args.checkpoint)?;
    let origin = origin_of(&found.path)?;
    let model = &found.manifest.head.model;
    let imported = origin.as_ref().map(|origin| origin.kept.format);
    let format = args.format.or(imported).or_else(|| fitting(model).first().copied()).ok_or_else(|| {
        Failure::input("no format can express this model", "docs/hugging-face.md says what each format can")
    })?;
    let stored = origin.as_ref().map(|origin| origin.element_type);
    let element_type = args.dtype.map(element_type).or(stored).unwrap_or(ElementType::F32);
    let tokenizer_folder = found.tokenizer_folder();
    if tokenizer_folder.is_none() && found.run.is_some() {
        return Err(Failure::input(
            format!("the tokenizer of {} is not there", found.path.display()),
            "restore the data folder of its run, or put the run's tokenizer.json into the checkpoint",
        ));
    }
    let loaded = load_weights(&found.path)?;
    let source = Source {
        model,
        tensors: &loaded.weights,
        buffers: &loaded.buffers,
        tokenizer_folder: tokenizer_folder.as_deref(),
        context_tokens: found.run.as_ref().map_or(USUAL_CONTEXT, |run| run.data.sequence),
        kept: origin.as_ref().map(|Origin { kept, .. }| kept),
    };
    let max_shard_bytes = args.shard.saturating_mul(1_000_000);
    let exported = export(&source, &Target { folder: &args.out, format, element_type, max_shard_bytes })?;
    let report = Report {
        checkpoint: found.path.display().to_string(),
        folder: exported.folder.display().to_string(),
        format: format.name(),
        dtype: element_type,
        files: exported.files.clone(),
        tensors: exported.tensors,
        bytes: exported.bytes,
        norm_head_folded: exported.norm_head_folded,
        has_tokenizer: tokenizer_folder.is_some(),
    };
    if args.json { output::json(&report) } else { report.print(&exported) }
}

impl Report {
    fn print(&self, exported: &Exported) -> Result<()> {
        let mut text = format!(
            "wrote {} as {}: {} tensors, {} in {} file{}\n",
            self.folder,
            self.format,
            self.tensors,
            bytes(self.bytes),
            exported.files.len(),
            if exported.files.len() == 1 { "" } else { "s" }
        );
        if self.norm_head_folded {
            text += "the head was divided by its column norms, since the format has no NormHead\n";
        }
        if !self.has_tokenizer {
            text += "no tokenizer was found: copy tokenizer.json and tokenizer_config.json there\n";
        }
        text += &format!("\nnext: transformers' AutoModelForCausalLM.from_pretrained(\"{}\")\n", self.folder);
        output::result(&text)
    }
}

fn element_type(dtype: Dtype) -> ElementType {
    match dtype {
        Dtype::F32 => ElementType::F32,
        Dtype::Bf16 => ElementType::Bf16,
        Dtype::F16 => ElementType::F16,
    }
}

fn formats() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name))
        .map(|name| Format::from_name(&name).unwrap_or(Format::Qwen3Moe))
}
