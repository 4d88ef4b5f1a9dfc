//! A trained model becomes a Hugging Face folder, whole or not at all.

use super::config;
use super::elements::ElementType;
use super::format::Format;
use super::kept::Kept;
use super::names::{Entry, Experts, Kind, layout, usual_element};
use super::refusals::{fitting, refusals};
use super::shards::{Planned, write};
use super::tokenizer::{ID_KEYS, SpecialIds, carry, refuse_larger, write_json};
use crate::new_folder::NewFolder;
use crate::tensor_file::Tensor;
use crate::weights::{Values, encode, folded, gather};
use lingot_spec::model::ModelSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// A model to export.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The shape of the model.
    pub model: &'a ModelSpec,
    /// Its weights, by Lingot's names.
    pub tensors: &'a [Tensor],
    /// The routers' buffers, of which only selection biases are exported.
    pub buffers: &'a [Tensor],
    /// The folder of tokenizer.json and the files that belong to it.
    pub tokenizer_folder: Option<&'a Path>,
    /// Tokens of the longest text the model was trained on; used where `kept` does not say it.
    pub context_tokens: u32,
    /// What the import that this model came from remembers.
    pub kept: Option<&'a Kept>,
}

/// A folder to write, and how.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The folder, which must be absent or empty.
    pub folder: &'a Path,
    /// The architecture.
    pub format: Format,
    /// How most numbers are stored.
    pub element_type: ElementType,
    /// How the experts of a layer are stored.
    pub experts: Experts,
    /// Most bytes of numbers in one file; a larger tensor gets a file of its own.
    pub max_shard_bytes: u64,
}

/// A written folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The folder.
    pub folder: PathBuf,
    /// The safetensors files, in order.
    pub files: Vec<String>,
    /// How many tensors were written.
    pub tensors: usize,
    /// Bytes of their numbers.
    pub bytes: u64,
    /// Whether the head was divided by its column norms, as the model does at every step.
    pub norm_head_folded: bool,
}

/// Writes a model as a Hugging Face folder. Errors if the format cannot express the model.
pub fn export(source: &Source, target: &Target) -> Result<Exported> {
    refuse_unfit(source.model, target.format)?;
    let kept = source.kept;
    refuse_stacked(target, kept)?;
    if let Some(folder) = source.tokenizer_folder.filter(|_| kept.is_none()) {
        refuse_larger(folder, source.model.vocabulary)?;
    }
    if target.max_shard_bytes == 0 {
        return Err(Problem::new(
            "a file of weights cannot hold 0 bytes",
            "give at least 1 megabyte; 5000 is usual",
        )
        .of(ProblemKind::Input));
    }
    let folder = NewFolder::begin(target.folder)?;
    let model = folded(source.model);
    let values = gather(source)?;
    fs::create_dir(folder.path()).map_err(|error| Problem::io("create", folder.path(), &error))?;
    let exported = write_folder(source, target, &model, &values, folder.path())?;
    folder.commit("config.json")?;
    Ok(exported)
}

fn refuse_unfit(model: &ModelSpec, format: Format) -> Result<()> {
    let reasons = refusals(model, format);
    if reasons.is_empty() {
        return Ok(());
    }
    let fitting: Vec<&str> = fitting(model).into_iter().map(Format::name).collect();
    let hint = match fitting.len() {
        0 => "no format can express this model; see docs/hugging-face.md for what each can".to_owned(),
        _ => format!("export in a format that can: {}", fitting.join(", ")),
    };
    Err(Problem::new(format!("{format} cannot express this model: {}", reasons.join("; ")), hint)
        .of(ProblemKind::Input))
}

/// Errors if experts should be stacked that nothing could read. The code that is published with Ling knows
/// them one by one; what was imported stacked has a reader.
fn refuse_stacked(target: &Target, kept: Option<&Kept>) -> Result<()> {
    let was_stacked = kept.is_some_and(|kept| kept.experts == Experts::Stacked);
    if target.experts == Experts::Separate || !target.format.is_bailing() || was_stacked {
        return Ok(());
    }
    Err(Problem::new(
        format!("{} has no stacked experts: Ling's published code reads them one by one", target.format),
        "export with separate experts, or in a format that `transformers` has a class for",
    )
    .of(ProblemKind::Input))
}

fn write_folder(
    source: &Source,
    target: &Target,
    model: &ModelSpec,
    values: &Values,
    partial: &Path,
) -> Result<Exported> {
    let kept = source.kept;
    let ids = match source.tokenizer_folder {
        Some(folder) => carry(folder, partial, source.context_tokens)?,
        None => SpecialIds::default(),
    };
    let config = config::write(model, target.format, target.element_type, source.context_tokens, &ids, kept);
    let from_config = || Map::from_iter([("_from_model_config".to_owned(), Value::Bool(true))]);
    let mut generation = kept.and_then(|kept| kept.generation.clone()).unwrap_or_else(from_config);
    // What config.json says of special tokens may come from an import, and name several ends.
    for key in ID_KEYS {
        if let Some(id) = config.get(key).filter(|id| !id.is_null())
            && generation.get(key).is_none_or(Value::is_null)
        {
            generation.insert(key.into(), id.clone());
        }
    }
    write_json(&partial.join("config.json"), &Value::Object(config))?;
    write_json(&partial.join("generation_config.json"), &Value::Object(generation))?;
    let entries: Vec<Entry> = layout(model, target.format, target.experts)
        .into_iter()
        .filter(|entry| entry.kind != Kind::Copy || entry.name != "lm_head.weight")
        .collect();
    let planned = plan(&entries, target, kept);
    let tensors = planned.len();
    let written = write(partial, planned, target.max_shard_bytes, |planned, bytes| {
        fill(&entries[planned.entry], planned.element, values, bytes)
    })?;
    Ok(Exported {
        folder: target.folder.into(),
        files: written.files,
        tensors,
        bytes: written.bytes,
        norm_head_folded: source.model.norm_head,
    })
}

fn plan(entries: &[Entry], target: &Target, kept: Option<&Kept>) -> Vec<Planned> {
    let kept = kept.filter(|kept| kept.format == target.format);
    let element_of = |entry: &Entry| {
        let usual = usual_element(entry.kind, target.element_type);
        kept.and_then(|kept| kept.element_types.get(&entry.name).copied()).unwrap_or(usual)
    };
    let planned = entries.iter().enumerate().map(|(number, entry)| Planned {
        name: entry.name.clone(),
        shape: entry.shape.clone(),
        element: element_of(entry),
        entry: number,
    });
    planned.collect()
}

fn fill(entry: &Entry, element: ElementType, values: &Values, bytes: &mut Vec<u8>) -> Result<()> {
    encode(&entry.name, &entry.pieces, element, values, bytes)
}
