//! The tokenizer's files beside a model: copied, completed where `transformers` would otherwise guess, and asked for
//! the ids of its special tokens.

use lingot_spec::problem::{Problem, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// What config.json says about tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SpecialIds {
    pub(super) bos: Option<u64>,
    pub(super) eos: Option<u64>,
    pub(super) pad: Option<u64>,
}

impl SpecialIds {
    /// Says the ids where `object` does not; what is there may know better, such as several ends of a text.
    pub(super) fn fill(&self, object: &mut Map<String, Value>) {
        for (key, id) in [("bos_token_id", self.bos), ("eos_token_id", self.eos), ("pad_token_id", self.pad)]
        {
            if let Some(id) = id
                && object.get(key).is_none_or(Value::is_null)
            {
                object.insert(key.into(), id.into());
            }
        }
    }
}

/// The files of a tokenizer that travel with a model.
const FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Names of the token that ends a text, for tokenizers that do not say which it is.
const END_NAMES: [&str; 6] =
    ["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>", "[EOS]"];

/// Copies the tokenizer of `from` into `to`; `vocabulary` is the model's.
pub(super) fn carry(from: &Path, to: &Path, vocabulary: u32, context_tokens: u32) -> Result<SpecialIds> {
    let tokenizer = read_object(&from.join("tokenizer.json"))?;
    let tokens = token_count(&tokenizer);
    if tokens > u64::from(vocabulary) {
        return Err(Problem::new(
            format!(
                "the tokenizer of {} has {tokens} tokens, the model's vocabulary is {vocabulary}",
                from.display()
            ),
            "give the folder of the tokenizer that the model was trained with",
        ));
    }
    copy_tokenizer(from, to)?;
    let said = said_names(from)?;
    let name_of = |role: &str| said.get(&format!("{role}_token")).and_then(content).map(str::to_owned);
    let end = name_of("eos").or_else(|| {
        END_NAMES.iter().find(|name| id_of(&tokenizer, name).is_some()).map(|name| (*name).to_owned())
    });
    let names = [("bos", name_of("bos")), ("eos", end), ("pad", name_of("pad"))];
    complete(to, &names, context_tokens)?;
    let [bos, eos, pad] = names.map(|(_, name)| name.and_then(|name| id_of(&tokenizer, &name)));
    Ok(SpecialIds { bos, eos, pad: pad.or(eos) })
}

/// Copies the files of a tokenizer, those that are there.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in FILES {
        let source = from.join(name);
        if source.is_file() {
            std::fs::copy(&source, to.join(name)).map_err(|error| Problem::io("copy", &source, &error))?;
        }
    }
    Ok(())
}

/// Without tokenizer_config.json, `transformers` builds the tokenizer class that the model type suggests, which splits
/// text in its own way; the generic class takes everything from tokenizer.json.
fn complete(to: &Path, names: &[(&str, Option<String>)], context_tokens: u32) -> Result<()> {
    let specials: Map<String, Value> = names
        .iter()
        .filter_map(|(role, name)| Some((format!("{role}_token"), Value::from(name.clone()?))))
        .collect();
    let config = to.join("tokenizer_config.json");
    if !config.exists() {
        let mut object = specials.clone();
        object.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        object.insert("model_max_length".into(), context_tokens.into());
        object.insert("clean_up_tokenization_spaces".into(), false.into());
        write_json(&config, &Value::Object(object))?;
    }
    let map = to.join("special_tokens_map.json");
    if !map.exists() {
        write_json(&map, &Value::Object(specials))?;
    }
    Ok(())
}

/// The special tokens by role, as the tokenizer's own files name them.
fn said_names(from: &Path) -> Result<Map<String, Value>> {
    let mut said = Map::new();
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = from.join(name);
        if path.is_file() {
            said.extend(read_object(&path)?.into_iter().filter(|(_, value)| content(value).is_some()));
        }
    }
    Ok(said)
}

/// A token is written as its text or as an object with it.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn id_of(tokenizer: &Map<String, Value>, name: &str) -> Option<u64> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let found = added.into_iter().flatten().find(|token| content(token) == Some(name));
    found
        .and_then(|token| token.get("id")?.as_u64())
        .or_else(|| tokenizer.get("model")?.get("vocab")?.get(name)?.as_u64())
}

/// One more than the highest id.
fn token_count(tokenizer: &Map<String, Value>) -> u64 {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added = added.filter_map(|token| token.get("id")?.as_u64());
    let vocabulary = tokenizer.get("model").and_then(|model| model.get("vocab"));
    let by_name = vocabulary.and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    let listed = vocabulary.and_then(Value::as_array).map(|list| list.len() as u64).into_iter();
    let ids = added.chain(by_name.filter_map(Value::as_u64)).map(|id| id.saturating_add(1));
    ids.chain(listed).max().unwrap_or(0)
}

pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(|error| Problem::io("read", path, &error))?;
    parse_object(&bytes).map_err(|problem| {
        Problem::new(
            format!("{}: {problem}", path.display()),
            "the file is damaged; fetch or export it again",
        )
    })
}

pub(super) fn parse_object(bytes: &[u8]) -> std::result::Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("not a JSON object".into()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    std::fs::write(path, text).map_err(|error| Problem::io("write", path, &error))
}
