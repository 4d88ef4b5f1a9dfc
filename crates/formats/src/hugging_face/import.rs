//! A Hugging Face folder becomes a model of Lingot, with everything needed to write the same bytes again.

use super::config;
use super::elements::ElementType;
use super::format::Format;
use super::kept::Kept;
use super::names::{Entry, Experts, Kind, layout, usual_element};
use super::refusals::refusals;
use super::shards::Shards;
use super::tokenizer::{inspect, read_object};
use crate::tensor_file::Tensor;
use lingot_spec::model::ModelSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::tensors::{buffers, tensors};
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A model read from a Hugging Face folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The model. Values that matter to training alone are those of the published Ling of its generation.
    pub model: ModelSpec,
    /// Its weights, in Lingot's order.
    pub tensors: Vec<Tensor>,
    /// Its routers' buffers, in Lingot's order.
    pub buffers: Vec<Tensor>,
    /// The architecture of the folder.
    pub format: Format,
    /// The element type of most tensors.
    pub element_type: ElementType,
    /// The folder of its tokenizer, if it has one.
    pub tokenizer: Option<PathBuf>,
    /// What an export needs to write the same folder again.
    pub kept: Kept,
    /// What the user should know, each note a sentence.
    pub notes: Vec<String>,
}

/// Reads a Hugging Face folder. Errors if Lingot cannot compute what its model computes, or could not export
/// it again.
pub fn import(folder: &Path) -> Result<Imported> {
    let (format, object) = read_config(folder)?;
    let tokens = inspect(folder)?;
    let mut shards = Shards::open(folder)?;
    let (model, rest) = config::read(format, &object, |name| shards.tensors.contains_key(name))?;
    refuse_unfit(&model, format)?;
    let experts = stored_experts(&shards);
    let entries = expected(&model, format, experts, &shards)?;
    compare(&entries, &shards)?;
    let element_type = usual(&shards);
    let element_types = exceptions(&entries, &shards, element_type);
    let mut notes = Vec::new();
    if let Some(tokens) = tokens.filter(|&tokens| tokens > u64::from(model.vocabulary)) {
        notes.push(format!(
            "the tokenizer has {tokens} tokens, the model's vocabulary is {}: it cannot read the others",
            model.vocabulary
        ));
    }
    if let Some((name, dtype)) = shards.others.first_key_value() {
        notes.push(format!(
            "{} tensors are no weights and were left out, such as {name} ({dtype:?})",
            shards.others.len()
        ));
    }
    let (tensors, buffers) = read_all(&model, &entries, &mut shards)?;
    let kept = Kept { format, config: rest, generation: generation(folder)?, element_types, experts };
    let tokenizer = tokens.is_some().then(|| folder.to_owned());
    Ok(Imported { model, tensors, buffers, format, element_type, tokenizer, kept, notes })
}

/// Errors if the model could not be exported again in its own format.
fn refuse_unfit(model: &ModelSpec, format: Format) -> Result<()> {
    let reasons = refusals(model, format);
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Problem::new(
        format!("config.json describes a model that Lingot does not train: {}", reasons.join("; ")),
        "docs/hugging-face.md lists the models that each format can have",
    )
    .of(ProblemKind::Input))
}

fn read_config(folder: &Path) -> Result<(Format, Map<String, Value>)> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Err(Problem::new(
            format!("{} is not there", path.display()),
            "give a folder of the Hugging Face layout: config.json and *.safetensors",
        ));
    }
    let object = read_object(&path)?;
    let name = object.get("model_type").and_then(Value::as_str);
    let Some(format) = name.and_then(Format::from_name) else {
        let said: String = name.unwrap_or("absent").chars().take(100).collect();
        refuse_latent_attention(&said, &object)?;
        return Err(Problem::new(
            format!("{}: model_type is {said}", path.display()),
            format!("supported: {}", Format::names()),
        ));
    };
    Ok((format, object))
}

/// Errors if the model has the attention of DeepSeek-V3, of which the rest could be read.
fn refuse_latent_attention(model_type: &str, config: &Map<String, Value>) -> Result<()> {
    let rank = config.get("kv_lora_rank").filter(|rank| !rank.is_null());
    if rank.is_none() && !model_type.starts_with("deepseek_v") {
        return Ok(());
    }
    let rank = rank.map_or(String::new(), |rank| format!(" of rank {rank} (kv_lora_rank)"));
    Err(Problem::new(
        format!(
            "{model_type} has multi-head latent attention: keys and values are projected from a normed \
             vector{rank}, which Lingot's grouped-query attention cannot compute"
        ),
        "import a model of glm4_moe or dots1, which have such routers over grouped-query attention",
    )
    .of(ProblemKind::Input))
}

fn generation(folder: &Path) -> Result<Option<Map<String, Value>>> {
    let path = folder.join("generation_config.json");
    if path.is_file() { read_object(&path).map(Some) } else { Ok(None) }
}

/// How the folder stores experts, by the names of its tensors.
fn stored_experts(shards: &Shards) -> Experts {
    let is_stacked = shards.tensors.keys().any(|name| name.ends_with(".mlp.experts.gate_up_proj"));
    if is_stacked { Experts::Stacked } else { Experts::Separate }
}

/// The entries that the folder should have. Errors if they are many times more than it has, before they are
/// listed.
fn expected(model: &ModelSpec, format: Format, experts: Experts, shards: &Shards) -> Result<Vec<Entry>> {
    let per_layer = match experts {
        Experts::Stacked => 2,
        Experts::Separate => 3 * u64::from(model.experts),
    };
    let at_least = 4 * u64::from(model.layers) + u64::from(model.moe_layers()) * per_layer;
    let found = shards.tensors.len() as u64;
    if at_least > 1000 + 16 * found {
        return Err(Problem::new(
            format!(
                "config.json describes {} layers with {} experts, at least {at_least} tensors, but the files \
                 hold {found}",
                model.layers, model.experts
            ),
            "config.json and the weights are of different models, or files are missing",
        ));
    }
    Ok(layout(model, format, experts))
}

/// Checks names and shapes of the files against those that the model needs.
fn compare(entries: &[Entry], shards: &Shards) -> Result<()> {
    let hint = "config.json and the weights are of different models, or files are missing";
    let missing: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.kind != Kind::Copy && !shards.tensors.contains_key(&entry.name))
        .map(|entry| entry.name.as_str())
        .collect();
    if let Some((name, dtype)) = missing.iter().find_map(|&name| shards.others.get_key_value(name)) {
        return Err(Problem::new(
            format!("{name} has element type {dtype:?}"),
            "F32, BF16 and F16 are supported; quantised models are not",
        )
        .of(ProblemKind::Input));
    }
    if !missing.is_empty() {
        return Err(Problem::new(format!("missing {}", listed(&missing)), hint).of(ProblemKind::Input));
    }
    let known: HashMap<&str, &Entry> = entries.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    // Whole numbers beside the weights are positions, for example; other types may well be weights.
    let others = shards.others.iter().filter(|(_, dtype)| !is_whole(**dtype)).map(|(name, _)| name);
    let unexpected: Vec<&str> = shards
        .tensors
        .keys()
        .chain(others)
        .map(String::as_str)
        // Older releases stored the frequencies of the rotation, which follow from config.json.
        .filter(|name| !known.contains_key(name) && !name.contains("rotary_emb."))
        .collect();
    if !unexpected.is_empty() {
        return Err(Problem::new(format!("unexpected {}", listed(&unexpected)), hint).of(ProblemKind::Input));
    }
    for entry in entries {
        if let Some(located) = shards.tensors.get(&entry.name).filter(|located| located.shape != entry.shape)
        {
            return Err(Problem::new(
                format!(
                    "{} has shape {:?}, but config.json says {:?}",
                    entry.name, located.shape, entry.shape
                ),
                hint,
            ));
        }
    }
    Ok(())
}

fn is_whole(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    [BOOL, U8, I8, U16, I16, U32, I32, U64, I64].contains(&dtype)
}

fn listed(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(5).copied().collect();
    let more = if names.len() > first.len() { ", ..." } else { "" };
    format!("{} tensors: {}{more}", names.len(), first.join(", "))
}

/// The element type that most tensors have.
fn usual(shards: &Shards) -> ElementType {
    let count =
        |element: ElementType| shards.tensors.values().filter(|located| located.element == element).count();
    ElementType::ALL.into_iter().max_by_key(|&element| count(element)).unwrap_or(ElementType::F32)
}

/// The tensors whose element type is not the one that export would choose.
fn exceptions(
    entries: &[Entry],
    shards: &Shards,
    element_type: ElementType,
) -> BTreeMap<String, ElementType> {
    let mut exceptions = BTreeMap::new();
    for entry in entries {
        let located = shards.tensors.get(&entry.name);
        if let Some(element) = located.map(|located| located.element)
            && element != usual_element(entry.kind, element_type)
        {
            exceptions.insert(entry.name.clone(), element);
        }
    }
    exceptions
}

fn read_all(model: &ModelSpec, entries: &[Entry], shards: &mut Shards) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let ours = tensors(model).into_iter().map(|tensor| (tensor.name, tensor.shape));
    let buffers = buffers(model).into_iter().map(|buffer| (buffer.name, buffer.shape));
    let weights = tensors(model).len();
    let mut all: Vec<Tensor> = ours
        .chain(buffers)
        .map(|(name, shape)| {
            let values = vec![0.0; shape.iter().product()];
            (name, shape, values)
        })
        .collect();
    let places: HashMap<String, usize> =
        all.iter().enumerate().map(|(place, tensor)| (tensor.0.clone(), place)).collect();
    let mut bytes = Vec::new();
    let mut numbers = Vec::new();
    // Copies come last, since they are compared with what they copy.
    for is_copy in [false, true] {
        for entry in entries.iter().filter(|entry| (entry.kind == Kind::Copy) == is_copy) {
            let Some(located) = shards.tensors.get(&entry.name).cloned() else { continue };
            shards.read(&located, &mut bytes)?;
            numbers.resize(entry.shape.iter().product(), 0.0);
            located.element.decode(&bytes, &mut numbers);
            refuse_broken(entry, &numbers)?;
            place(entry, &numbers, &mut all, &places)?;
        }
    }
    let buffers = all.split_off(weights);
    Ok((all, buffers))
}

/// Errors if a tensor holds NaN or infinity, with which a model computes nothing but NaN.
fn refuse_broken(entry: &Entry, numbers: &[f32]) -> Result<()> {
    let broken = || numbers.iter().enumerate().filter(|(_, number)| !number.is_finite());
    match broken().next() {
        None => Ok(()),
        Some((first, number)) => Err(Problem::new(
            format!(
                "{} holds {} numbers that are not finite, the first is {number} at place {first} of {:?}",
                entry.name,
                broken().count(),
                entry.shape
            ),
            "the weights are broken; fetch them again, or import an earlier checkpoint of that training",
        )
        .of(ProblemKind::Damaged)),
    }
}

fn place(entry: &Entry, numbers: &[f32], all: &mut [Tensor], places: &HashMap<String, usize>) -> Result<()> {
    let mut rest = numbers;
    for piece in &entry.pieces {
        let (numbers, after) = rest.split_at(piece.length);
        rest = after;
        let Some(&at) = places.get(&piece.tensor) else { continue };
        let ours = &mut all[at].2[piece.start..piece.start + piece.length];
        if entry.kind == Kind::Copy {
            if ours.iter().zip(numbers).any(|(ours, theirs)| ours.to_bits() != theirs.to_bits()) {
                return Err(Problem::new(
                    format!("{} differs from {}, which it should repeat", entry.name, piece.tensor),
                    "Lingot keeps one embedding and one head; this model has more",
                ));
            }
        } else {
            ours.copy_from_slice(numbers);
        }
    }
    Ok(())
}
