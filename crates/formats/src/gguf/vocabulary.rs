//! A tokenizer in the words of llama.cpp: byte-level BPE whose way of splitting text it knows by name.

use super::file::{Metadata, Value};
use crate::hugging_face::{SpecialIds, read_object, refuse_larger, special_ids};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// What llama.cpp calls a way of splitting text into words, and the pattern by which `tokenizer.json` says
/// the same. The first is that of the tokenizers that are trained here.
const SPLITS: [(&str, &str); 3] = [
    (
        "qwen2",
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    (
        "llama-bpe",
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    (
        "bailingmoe",
        concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
];
/// The pattern of byte-level BPE without one of its own.
const PLAIN_SPLIT: &str = "gpt-2";
/// The one that takes words as they are in the vocabulary before it merges.
const TAKES_WORDS: &str = "llama-bpe";

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The keys of the tokenizer in `folder`, for a model of `rows` tokens; without a folder those that say that
/// there is no vocabulary. Errors if llama.cpp would make other tokens of a text.
pub(super) fn vocabulary(folder: Option<&Path>, rows: u32) -> Result<Metadata> {
    let Some(folder) = folder else {
        return Ok(vec![("tokenizer.ggml.model".into(), Value::Text("none".into()))]);
    };
    refuse_larger(folder, rows)?;
    let tokenizer = read_object(&folder.join("tokenizer.json"))?;
    let split = split_of(&tokenizer).map_err(|why| refused(folder, &why))?;
    let model = tokenizer.get("model").unwrap_or(&Json::Null);
    let (tokens, kinds) = tokens(&tokenizer, model, rows);
    let mut keys: Metadata = vec![
        ("tokenizer.ggml.model".into(), Value::Text("gpt2".into())),
        ("tokenizer.ggml.pre".into(), Value::Text(split.into())),
        ("tokenizer.ggml.tokens".into(), Value::Texts(tokens)),
        ("tokenizer.ggml.token_type".into(), Value::Numbers(kinds)),
        ("tokenizer.ggml.merges".into(), Value::Texts(merges(model).map_err(|why| refused(folder, &why))?)),
    ];
    let SpecialIds { bos, eos, pad } = special_ids(folder, &tokenizer)?;
    for (key, id) in [("bos_token_id", bos), ("eos_token_id", eos), ("padding_token_id", pad)] {
        if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
            keys.push((format!("tokenizer.ggml.{key}"), Value::Number(id)));
        }
    }
    let config = folder.join("tokenizer_config.json");
    let config = if config.is_file() { read_object(&config)? } else { Map::new() };
    let adds_bos = config.get("add_bos_token").and_then(Json::as_bool).unwrap_or(false) && bos.is_some();
    keys.push(("tokenizer.ggml.add_bos_token".into(), Value::Flag(adds_bos)));
    let own = std::fs::read_to_string(folder.join("chat_template.jinja")).ok();
    let template = own.or_else(|| config.get("chat_template")?.as_str().map(str::to_owned));
    keys.extend(template.map(|template| ("tokenizer.chat_template".to_owned(), Value::Text(template))));
    Ok(keys)
}

fn refused(folder: &Path, why: &str) -> Problem {
    let file = folder.join("tokenizer.json");
    Problem::new(
        format!("llama.cpp would split text in another way than {}: {why}", file.display()),
        "export in a format of Hugging Face, and convert that with a llama.cpp that knows the tokenizer",
    )
    .of(ProblemKind::Input)
}

/// llama.cpp's name for the tokenizer's way of splitting text, or why it has none.
fn split_of(tokenizer: &Map<String, Json>) -> std::result::Result<&'static str, String> {
    let part = |name: &str| tokenizer.get(name).unwrap_or(&Json::Null);
    let kind = |value: &Json| value.get("type").and_then(Json::as_str).unwrap_or("none").to_owned();
    if kind(part("model")) != "BPE" {
        return Err(format!("the model is {}, not BPE", kind(part("model"))));
    }
    if !["none", "NFC"].contains(&kind(part("normalizer")).as_str()) {
        return Err(format!("text is normalised by {}", kind(part("normalizer"))));
    }
    let pre = part("pre_tokenizer");
    let steps = match pre.get("pretokenizers").and_then(Json::as_array) {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(pre),
    };
    let is_bytes = |step: &Json, splits: bool| {
        let flag = |name: &str, usual: bool| step.get(name).and_then(Json::as_bool).unwrap_or(usual);
        kind(step) == "ByteLevel" && !flag("add_prefix_space", true) && flag("use_regex", true) == splits
    };
    let name = match steps {
        [bytes] if is_bytes(bytes, true) => PLAIN_SPLIT,
        [split, bytes] if kind(split) == "Split" && is_bytes(bytes, false) => {
            let pattern = split.pointer("/pattern/Regex").and_then(Json::as_str).unwrap_or_default();
            let is_plain = split.get("behavior").is_some_and(|behavior| behavior == "Isolated")
                && !split.get("invert").and_then(Json::as_bool).unwrap_or(false);
            let known = SPLITS.iter().find(|(_, known)| is_plain && *known == pattern);
            known.ok_or_else(|| format!("it does not know the pattern {pattern:?}"))?.0
        }
        _ => {
            let kinds: Vec<String> = steps.iter().map(kind).collect();
            return Err(format!("words are found by {}", kinds.join(" and ")));
        }
    };
    let takes_words = part("model").get("ignore_merges").and_then(Json::as_bool).unwrap_or(false);
    if takes_words != (name == TAKES_WORDS) {
        return Err(format!("the model has ignore_merges = {takes_words}, {name} has not"));
    }
    Ok(name)
}

/// The spelling and the kind of every token up to `rows`.
fn tokens(tokenizer: &Map<String, Json>, model: &Json, rows: u32) -> (Vec<String>, Vec<i32>) {
    let mut all: Vec<(String, i32)> = (0..rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let mut put = |id: Option<u64>, token: &str, kind: i32| {
        if let Some(place) = id.and_then(|id| all.get_mut(id as usize)) {
            *place = (token.into(), kind);
        }
    };
    for (token, id) in model.get("vocab").and_then(Json::as_object).into_iter().flatten() {
        put(id.as_u64(), token, NORMAL);
    }
    for added in tokenizer.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
        let is_special = added.get("special").and_then(Json::as_bool).unwrap_or(false);
        let content = added.get("content").and_then(Json::as_str).unwrap_or_default();
        let id = added.get("id").and_then(Json::as_u64);
        put(id, content, if is_special { CONTROL } else { USER_DEFINED });
    }
    all.into_iter().unzip()
}

/// The merges, each as two words with a blank between them.
fn merges(model: &Json) -> std::result::Result<Vec<String>, String> {
    let listed = model.get("merges").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let merge = |merge: &Json| match merge {
        Json::String(pair) => Some(pair.clone()),
        Json::Array(pair) => match pair.as_slice() {
            [Json::String(first), Json::String(second)] => Some(format!("{first} {second}")),
            _ => None,
        },
        _ => None,
    };
    listed.iter().map(|pair| merge(pair).ok_or_else(|| format!("{pair} is not a merge"))).collect()
}
