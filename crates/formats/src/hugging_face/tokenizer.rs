//! The files of the tokenizer beside a model: inspected, copied, completed where `transformers` would
//! otherwise guess, and searched for the ids of special tokens.

use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::python_json::{NotFinite, repair};
use lingot_spec::special_tokens::{KNOWN_ENDS, naming_files};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The ids of special tokens, for config.json.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecialIds {
    pub(crate) bos: Option<u64>,
    pub(crate) eos: Option<u64>,
    pub(crate) pad: Option<u64>,
}

/// The keys of special tokens in config.json and generation_config.json.
pub(super) const ID_KEYS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

impl SpecialIds {
    /// Adds the ids that `object` lacks; those it has may say more, such as several ends of a text.
    pub(super) fn fill(&self, object: &mut Map<String, Value>) {
        for (key, id) in ID_KEYS.into_iter().zip([self.bos, self.eos, self.pad]) {
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

/// Those of them that are JSON objects and name special tokens.
const OBJECTS: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];

/// Copies the tokenizer of `from` into `to` and completes it. Returns the ids of its special tokens.
pub(super) fn carry(from: &Path, to: &Path, context_tokens: u32) -> Result<SpecialIds> {
    let tokenizer = read_object(&from.join("tokenizer.json"))?;
    copy_tokenizer(from, to)?;
    let names = roles(from, &tokenizer)?;
    complete(to, &names, context_tokens)?;
    Ok(ids_of(&tokenizer, names))
}

/// The ids of the special tokens of a folder's tokenizer.
pub(crate) fn special_ids(from: &Path, tokenizer: &Map<String, Value>) -> Result<SpecialIds> {
    Ok(ids_of(tokenizer, roles(from, tokenizer)?))
}

fn ids_of(tokenizer: &Map<String, Value>, names: [(&str, Option<String>); 3]) -> SpecialIds {
    let [bos, eos, pad] = names.map(|(_, name)| name.and_then(|name| id_of(tokenizer, &name)));
    SpecialIds { bos, eos, pad: pad.or(eos) }
}

/// The special tokens by role, with the end that is known where no file names one.
fn roles(from: &Path, tokenizer: &Map<String, Value>) -> Result<[(&'static str, Option<String>); 3]> {
    let named = special_names(from)?;
    let name_of = |role: &str| named.get(&format!("{role}_token")).and_then(content).map(str::to_owned);
    let end = name_of("eos").or_else(|| {
        KNOWN_ENDS.iter().find(|name| id_of(tokenizer, name).is_some()).map(|name| (*name).to_owned())
    });
    Ok([("bos", name_of("bos")), ("eos", end), ("pad", name_of("pad"))])
}

/// Reads the tokenizer of a folder that is imported. Returns one more than its highest token; none where the
/// folder has no tokenizer. Errors if a file cannot be read, or is a link out of the folder: a folder from
/// elsewhere must not decide which other files are copied.
pub(super) fn inspect(folder: &Path) -> Result<Option<u64>> {
    for name in FILES.into_iter().chain(["config.json", "generation_config.json"]) {
        let path = folder.join(name);
        if let Some(target) = outside(folder, &path) {
            return Err(Problem::new(
                format!("{} is a link to {}, outside of the folder", path.display(), target.display()),
                "put a copy of the file in place of the link",
            )
            .of(ProblemKind::Input));
        }
        if OBJECTS.contains(&name) && path.is_file() {
            read_object(&path)?;
        }
    }
    let path = folder.join("tokenizer.json");
    if path.is_file() { read_object(&path).map(|tokenizer| Some(token_count(&tokenizer))) } else { Ok(None) }
}

/// Where a link leads that leaves the folder. The links of a download cache lead to its own `blobs`.
fn outside(folder: &Path, path: &Path) -> Option<PathBuf> {
    let (folder, target) = (folder.canonicalize().ok()?, path.canonicalize().ok()?);
    let cache = folder.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    let is_own =
        target.starts_with(&folder) || cache.is_some_and(|cache| target.starts_with(cache.join("blobs")));
    (!is_own).then_some(target)
}

/// Errors if the tokenizer of a folder has more tokens than the model.
pub(crate) fn refuse_larger(folder: &Path, vocabulary: u32) -> Result<()> {
    let tokens = token_count(&read_object(&folder.join("tokenizer.json"))?);
    if tokens <= u64::from(vocabulary) {
        return Ok(());
    }
    Err(Problem::new(
        format!(
            "the tokenizer of {} has {tokens} tokens, the model's vocabulary is {vocabulary}",
            folder.display()
        ),
        "give the folder of the tokenizer that the model was trained with",
    )
    .of(ProblemKind::Input))
}

/// Copies the files of a tokenizer that are in `from`.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in FILES {
        let source = from.join(name);
        if source.is_file() {
            std::fs::copy(&source, to.join(name)).map_err(|error| Problem::io("copy", &source, &error))?;
        }
    }
    Ok(())
}

/// Writes the files that the tokenizer lacks. Without tokenizer_config.json, `transformers` builds the
/// tokenizer class that the model type suggests, which splits text in its own way; the generic class takes
/// everything from tokenizer.json.
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
fn special_names(from: &Path) -> Result<Map<String, Value>> {
    let mut objects = BTreeMap::new();
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = from.join(name);
        if path.is_file() {
            objects.insert(name, read_object(&path)?);
        }
    }
    let lists_tokens = objects
        .get("tokenizer_config.json")
        .is_some_and(|config| config.contains_key("added_tokens_decoder"));
    let mut names = Map::new();
    for file in naming_files(lists_tokens).into_iter().rev() {
        let named = objects.remove(file).into_iter().flatten();
        names.extend(named.filter(|(_, value)| content(value).is_some()));
    }
    Ok(names)
}

/// A token is written as its text or as an object with it.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The id of a token.
fn id_of(tokenizer: &Map<String, Value>, name: &str) -> Option<u64> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let found = added.into_iter().flatten().find(|token| content(token) == Some(name));
    let id = found.and_then(|token| token.get("id")?.as_u64());
    let vocabulary = tokenizer.get("model").and_then(|model| model.get("vocab"));
    id.or_else(|| match vocabulary? {
        // A unigram model lists its words with their scores.
        Value::Array(words) => {
            words.iter().position(|word| word.get(0).is_some_and(|word| word == name)).map(|id| id as u64)
        }
        words => words.get(name)?.as_u64(),
    })
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

/// Reads a file that holds one JSON object, as Python writes it.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(|error| Problem::io("read", path, &error))?;
    parse_object(&bytes).map_err(|problem| {
        Problem::new(
            format!("{}: {problem}", path.display()),
            "the file is damaged; fetch or export it again",
        )
        .of(ProblemKind::Damaged)
    })
}

pub(super) fn parse_object(bytes: &[u8]) -> std::result::Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    match serde_json::from_str(&repair(text, NotFinite::Tagged).json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("not a JSON object".into()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    std::fs::write(path, text).map_err(|error| Problem::io("write", path, &error))
}
