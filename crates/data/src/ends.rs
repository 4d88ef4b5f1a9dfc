//! The files beside a `tokenizer.json`: which token ends a document, and tokens that only they name.

use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::python_json::{NotFinite, repair};
use lingot_spec::special_tokens::{KNOWN_ENDS, naming_files};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, Tokenizer};

type Object = Map<String, Value>;

/// A tokenizer as it was given. All is read once, since a path may name a pipe.
pub(crate) struct Files {
    path: PathBuf,
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    config: Option<Companion>,
    map: Option<Companion>,
    added: Option<Companion>,
}

/// A file beside tokenizer.json.
struct Companion {
    bytes: Vec<u8>,
    object: Object,
}

impl Files {
    /// Reads a tokenizer.json and the files of the tokenizer beside it. A file that is there and cannot be
    /// read is an error.
    pub(crate) fn read(path: &Path) -> Result<Files> {
        let tokenizer = fs::read(path).map_err(|e| {
            let problem = Problem::io("read the tokenizer", path, &e);
            let is_absent = [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::IsADirectory];
            if is_absent.contains(&e.kind()) { problem.of(ProblemKind::Input) } else { problem }
        })?;
        let beside = |name: &str| companion(&path.with_file_name(name));
        Ok(Files {
            path: path.into(),
            tokenizer,
            config: beside("tokenizer_config.json")?,
            map: beside("special_tokens_map.json")?,
            added: beside("added_tokens.json")?,
        })
    }

    /// Adds the tokens that the files beside tokenizer.json list and it does not have.
    pub(crate) fn add_missing(&self, inner: &mut Tokenizer) -> Result<()> {
        let mut missing = BTreeMap::new();
        for (token, id) in self.added.iter().flat_map(|added| &added.object) {
            if let Some(id) = id.as_u64() {
                missing.insert(id, AddedToken::from(token.clone(), false));
            }
        }
        let listed =
            self.config.iter().filter_map(|config| config.object.get("added_tokens_decoder")?.as_object());
        for (id, token) in listed.flatten() {
            let is_special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            if let (Ok(id), Some(content)) = (id.parse(), content(token)) {
                missing.insert(id, AddedToken::from(content, is_special));
            }
        }
        missing.retain(|_, token| inner.token_to_id(&token.content).is_none());
        for (id, token) in missing {
            let content = token.content.clone();
            let added = inner.add_tokens([token]).map(|_| inner.token_to_id(&content));
            if !added.is_ok_and(|added| added.map(u64::from) == Some(id)) {
                return Err(Problem::new(
                    format!(
                        "the files beside {} give `{content}` the id {id}, which does not follow \
                     on its tokens",
                        self.path.display()
                    ),
                    "save the tokenizer again with `transformers`, whose newer releases complete \
                     tokenizer.json",
                )
                .of(ProblemKind::Input));
            }
        }
        Ok(())
    }

    /// The token that ends a document: the `eos_token` of the tokenizer's files, or else the first
    /// `eos_token_id` of the model's files beside them, or else a token that is known to end texts.
    pub(crate) fn end(&self, inner: &Tokenizer) -> Result<String> {
        if let Some((file, end)) = self.named_end() {
            if inner.token_to_id(end).is_some() {
                return Ok(end.into());
            }
            // The map is not read by `transformers` where the configuration lists the tokens.
            if !(self.config_lists_tokens() && file == "special_tokens_map.json") {
                return Err(Problem::new(
                    format!("{file} beside {} names `{end}`, which is no token of it", self.path.display()),
                    format!("name a token that the tokenizer has as `eos_token` in {file}"),
                )
                .of(ProblemKind::Input));
            }
        }
        for name in ["generation_config.json", "config.json"] {
            let file = companion(&self.path.with_file_name(name))?;
            let id = file.as_ref().and_then(|file| file.object.get("eos_token_id"));
            let id = id.and_then(|id| id.as_u64().or_else(|| id.get(0)?.as_u64()));
            let end = id.and_then(|id| inner.id_to_token(u32::try_from(id).ok()?));
            if let Some(end) = end {
                return Ok(end);
            }
        }
        known(inner, &self.path)
    }

    /// The file that names the end of a document, and the token.
    fn named_end(&self) -> Option<(&'static str, &str)> {
        let (config, map) = (self.config.as_ref(), self.map.as_ref());
        let file = |name| if name == "special_tokens_map.json" { map } else { config };
        let named = |name| Some((name, content(file(name)?.object.get("eos_token")?)?));
        naming_files(self.config_lists_tokens()).into_iter().find_map(named)
    }

    fn config_lists_tokens(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.object.contains_key("added_tokens_decoder"))
    }

    /// The files for another folder, where they must name the end by themselves.
    pub(crate) fn copies(&self, end: &str) -> Vec<(&'static str, Vec<u8>)> {
        let mut copies = vec![("tokenizer.json", self.tokenizer.clone())];
        let companions = [("special_tokens_map.json", &self.map), ("added_tokens.json", &self.added)];
        for (name, companion) in companions {
            copies.extend(companion.as_ref().map(|companion| (name, companion.bytes.clone())));
        }
        let config = match &self.config {
            None if self.map.is_none() => return [copies, made(end)].concat(),
            None => config(end),
            Some(config) if self.named_end().is_some_and(|(_, named)| named == end) => config.bytes.clone(),
            Some(config) => {
                let mut object = config.object.clone();
                object.insert("eos_token".into(), end.into());
                text_of(&Value::Object(object))
            }
        };
        copies.push(("tokenizer_config.json", config));
        copies
    }
}

/// The token that is known to end texts and that a tokenizer has.
pub(crate) fn known(inner: &Tokenizer, path: &Path) -> Result<String> {
    let known = KNOWN_ENDS.into_iter().find(|end| inner.token_to_id(end).is_some());
    known.map(str::to_owned).ok_or_else(|| {
        Problem::new(
            format!("{} has no token that ends a document", path.display()),
            "name it as `eos_token` in the tokenizer_config.json beside it",
        )
        .of(ProblemKind::Input)
    })
}

/// The two files from which `transformers` takes the special tokens, for a tokenizer that has neither.
pub(crate) fn made(end: &str) -> Vec<(&'static str, Vec<u8>)> {
    let map = json!({ "eos_token": end, "pad_token": end });
    vec![("tokenizer_config.json", config(end)), ("special_tokens_map.json", text_of(&map))]
}

fn config(end: &str) -> Vec<u8> {
    text_of(&json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 1_000_000_000,
    }))
}

/// A tokenizer.json whose unigram model never takes a special token for a word: such a model lists its
/// special tokens among its words, with the best score there is.
pub(crate) fn spare_special_words(bytes: &[u8]) -> Vec<u8> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    spared(bytes).unwrap_or_else(|| bytes.to_vec())
}

fn spared(bytes: &[u8]) -> Option<Vec<u8>> {
    if !std::str::from_utf8(bytes).ok()?.contains("\"Unigram\"") {
        return None;
    }
    let mut tokenizer: Value = serde_json::from_slice(bytes).ok()?;
    let added = tokenizer.get("added_tokens")?.as_array()?.clone();
    let special: Vec<&str> = added
        .iter()
        .filter(|token| token["special"] == true)
        .filter_map(|token| token["content"].as_str())
        .collect();
    let model = tokenizer.get_mut("model").filter(|model| model["type"] == "Unigram")?;
    let words = model.get_mut("vocab")?.as_array_mut()?;
    let worst = words.iter().filter_map(|word| word.get(1)?.as_f64()).fold(0.0, f64::min);
    for word in words.iter_mut().filter(|word| word[0].as_str().is_some_and(|word| special.contains(&word))) {
        *word.get_mut(1)? = (worst - 1000.0).into();
    }
    serde_json::to_vec(&tokenizer).ok()
}

fn companion(path: &Path) -> Result<Option<Companion>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => return Ok(None),
        Err(e) => return Err(Problem::io("read", path, &e)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let parsed = serde_json::from_str(&repair(&text, NotFinite::Tagged).json);
    match parsed {
        Ok(Value::Object(object)) => Ok(Some(Companion { bytes, object })),
        Ok(_) => Err(damaged(path, "it is not a JSON object")),
        Err(e) => Err(damaged(path, &e.to_string())),
    }
}

fn damaged(path: &Path, why: &str) -> Problem {
    Problem::new(
        format!("{} cannot be read: {why}", path.display()),
        "fetch or save the tokenizer again; its special tokens are named there",
    )
    .of(ProblemKind::Damaged)
}

/// A token is written as its text or as an object with it.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn text_of(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
