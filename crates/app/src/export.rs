//! `lingot export`: a trained model as a Hugging Face folder, or as a GGUF file.

use crate::checkpoint::{self, Found};
use crate::failure::{Failure, Result};
use crate::import::{Origin, origin_of};
use crate::output;
use crate::terminal::bytes;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lingot_formats::hugging_face::{ElementType, Experts, Format, Source, Target, export, fitting};
use lingot_formats::{abilities, gguf};
use lingot_train::checkpoint::{Loaded, load_weights};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Write a model as a Hugging Face folder, or as a GGUF file
///
/// A folder holds safetensors, config.json, generation_config.json and the tokenizer, so that
/// `transformers` and inference engines open it; a GGUF file is for llama.cpp.
/// What a format cannot express is refused.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = after_help())]
pub struct Args {
    /// A run's folder, a checkpoint in it, or an imported model
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Write this architecture, or a GGUF file [default: the imported one, or the first that fits]
    #[arg(long, value_parser = formats())]
    format: Option<Wanted>,
    /// The new folder, which may exist if it is empty; for gguf the new file
    #[arg(long, value_name = "FOLDER | FILE.gguf")]
    out: PathBuf,
    /// Store numbers in this type [default: as imported, or f32]
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Store each expert's matrices, or those of a layer in stacks [default: as imported, or separate]
    #[arg(long, value_enum)]
    experts: Option<Layout>,
    /// Start another file of weights before one holds more than this many megabytes
    #[arg(long, value_name = "MB", default_value_t = 5000)]
    shard: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--format` names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    HuggingFace(Format),
    Gguf,
}

/// The name of a GGUF file's format.
const GGUF: &str = "gguf";

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    Separate,
    Stacked,
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
    /// Where it was written: a folder, or the file of a GGUF export.
    folder: String,
    format: &'static str,
    /// The architecture of llama.cpp in a GGUF file.
    architecture: Option<&'static str>,
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
    let tokenizer_folder = found.tokenizer_folder();
    if tokenizer_folder.is_none() && found.run.is_some() {
        return Err(Failure::input(
            format!("the tokenizer of {} is not there", found.path.display()),
            "restore the data folder of its run, or put the run's tokenizer.json into the checkpoint",
        ));
    }
    let format = format_of(args, &found, origin.as_ref())?;
    let loaded = load_weights(&found.path)?;
    let source = source_of(&found, &loaded, tokenizer_folder.as_deref(), origin.as_ref());
    let stored = origin.as_ref().map(|origin| origin.element_type);
    let element_type = args.dtype.map(element_type).or(stored).unwrap_or(ElementType::F32);
    let report = match format {
        Wanted::HuggingFace(format) => write_folder(args, &source, format, element_type)?,
        Wanted::Gguf => write_file(args, &source, element_type)?,
    };
    let report = Report { checkpoint: found.path.display().to_string(), ..report };
    if args.json { output::json(&report) } else { report.print() }
}

/// The format that is asked for, or the imported one, or the first that can express the model.
fn format_of(args: &Args, found: &Found, origin: Option<&Origin>) -> Result<Wanted> {
    let imported = origin.map(|origin| origin.kept.format);
    let fits = || fitting(&found.manifest.head.model).first().copied();
    let usual = || imported.or_else(fits).map(Wanted::HuggingFace);
    args.format.or_else(usual).ok_or_else(|| {
        Failure::input(
            "no format can express this model",
            "`lingot export --help` shows what each format can express",
        )
    })
}

fn source_of<'a>(
    found: &'a Found,
    loaded: &'a Loaded,
    tokenizer_folder: Option<&'a Path>,
    origin: Option<&'a Origin>,
) -> Source<'a> {
    Source {
        model: &found.manifest.head.model,
        tensors: &loaded.weights,
        buffers: &loaded.buffers,
        tokenizer_folder,
        context_tokens: found.run.as_ref().map_or(USUAL_CONTEXT, |run| run.data.sequence),
        kept: origin.map(|Origin { kept, .. }| kept),
    }
}

fn write_folder(args: &Args, source: &Source, format: Format, dtype: ElementType) -> Result<Report> {
    let experts = match args.experts {
        Some(Layout::Separate) => Experts::Separate,
        Some(Layout::Stacked) => Experts::Stacked,
        // Another format than the imported one need not have a reader of stacks.
        None => source.kept.filter(|kept| kept.format == format).map_or(Experts::Separate, |it| it.experts),
    };
    let max_shard_bytes = args.shard.saturating_mul(1_000_000);
    let target = Target { folder: &args.out, format, element_type: dtype, experts, max_shard_bytes };
    let exported = export(source, &target)?;
    Ok(Report {
        checkpoint: String::new(),
        folder: exported.folder.display().to_string(),
        format: format.name(),
        architecture: None,
        dtype,
        files: exported.files,
        tensors: exported.tensors,
        bytes: exported.bytes,
        norm_head_folded: exported.norm_head_folded,
        has_tokenizer: source.tokenizer_folder.is_some(),
    })
}

fn write_file(args: &Args, source: &Source, dtype: ElementType) -> Result<Report> {
    if args.experts.is_some() {
        return Err(Failure::input(
            "--experts is for folders, and gguf always stacks",
            "leave --experts out",
        ));
    }
    let exported = gguf::export(source, &gguf::Target { file: &args.out, element_type: dtype })?;
    let file = exported.file.display().to_string();
    Ok(Report {
        checkpoint: String::new(),
        folder: file.clone(),
        format: GGUF,
        architecture: Some(exported.architecture),
        dtype,
        files: vec![file],
        tensors: exported.tensors,
        bytes: exported.bytes,
        norm_head_folded: exported.norm_head_folded,
        has_tokenizer: source.tokenizer_folder.is_some(),
    })
}

impl Report {
    fn print(&self) -> Result<()> {
        let (folder, count) = (&self.folder, self.files.len());
        let form = self.architecture.map_or(self.format.into(), |name| format!("{GGUF} ({name})"));
        let mut text = format!(
            "wrote {folder} as {form}: {} tensors, {} in {count} file{}\n",
            self.tensors,
            bytes(self.bytes),
            if count == 1 { "" } else { "s" }
        );
        if self.norm_head_folded {
            text += "the head was divided by its column norms, since the format has no NormHead\n";
        }
        match (self.architecture, self.has_tokenizer) {
            (Some(_), true) => text += &format!("\nnext: llama-cli -m {folder} -p \"Once\"\n"),
            (Some(_), false) => text += "no tokenizer was found: the file takes tokens alone\n",
            (None, has_tokenizer) => {
                if !has_tokenizer {
                    text += "no tokenizer was found: copy tokenizer.json and tokenizer_config.json there\n";
                }
                let class = "transformers' AutoModelForCausalLM.from_pretrained";
                text += &format!("\nnext: {class}(\"{folder}\")\n");
            }
        }
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

fn formats() -> impl TypedValueParser<Value = Wanted> {
    let names = Format::ALL.map(Format::name).into_iter().chain([GGUF]);
    PossibleValuesParser::new(names)
        .map(|name| Format::from_name(&name).map_or(Wanted::Gguf, Wanted::HuggingFace))
}

fn after_help() -> String {
    format!(
        "\
What each format can express (K: experts a token visits; `scale 1`, `shared 0` and so on: only that):
{}
Examples:
  lingot export out/quickstart --format bailing_moe_v2 --out exported
  lingot export out/quickstart/checkpoints/step-00000400 --format glm4_moe --dtype bf16 --out exported
  lingot export out/quickstart --format gguf --dtype bf16 --out quickstart.gguf",
        abilities::table()
    )
}
