//! JSON Lines as documents.

use crate::document::{Pieces, cut};
use crate::lines::Lines;
use lingot_spec::problem::Problem;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::VecDeque;
use std::fmt;
use std::io::BufRead;
use std::path::Path;

/// JSON lines: each line an object whose key `field` holds a document. Empty lines and empty texts are none.
pub(crate) fn json_pieces(reader: Box<dyn BufRead>, path: &Path, field: &str) -> Pieces {
    let (path, field) = (path.to_path_buf(), field.to_owned());
    let mut lines = Lines::new(reader, &path, None);
    let mut ready = VecDeque::new();
    let mut ended = false;
    Box::new(std::iter::from_fn(move || {
        loop {
            if let Some(piece) = ready.pop_front() {
                return Some(Ok(piece));
            }
            if ended {
                return None;
            }
            let parsed = match lines.next() {
                Ok(None) => return None,
                Ok(Some(line)) => parse_line(&line, &field)
                    .map_err(|problem| in_line(&path, lines.number, &problem, &field)),
                Err(error) => Err(error),
            };
            match parsed {
                Ok(text) => ready.extend(cut(text)),
                Err(error) => {
                    ended = true;
                    return Some(Err(error));
                }
            }
        }
    }))
}

/// The text under `field` of one JSON line; empty where the line is blank or the text null.
pub fn parse_line(line: &str, field: &str) -> std::result::Result<String, String> {
    if line.trim().is_empty() {
        return Ok(String::new());
    }
    let mut reader = serde_json::Deserializer::from_str(line);
    let found = FieldOf(field).deserialize(&mut reader).and_then(|found| reader.end().map(|()| found));
    match found.map_err(|e| format!("is not a JSON object: {e}"))? {
        Found::Text(text) => Ok(text),
        Found::Else(kind) => Err(format!("has {kind} under `{field}`, not text")),
        Found::Nothing(keys) if keys.is_empty() => Err(format!("has no `{field}`, and no other keys")),
        Found::Nothing(keys) => Err(format!("has no `{field}`; its keys are: {}", keys.join(", "))),
    }
}

fn in_line(path: &Path, number: u64, problem: &str, field: &str) -> Problem {
    Problem::new(
        format!("{}, line {number} {problem}", path.display()),
        format!(
            "each line is a JSON object with its text under `{field}`; `field` of the corpus names the key"
        ),
    )
}

enum Found {
    Text(String),
    /// What is there instead of a text.
    Else(&'static str),
    /// The keys that are there instead.
    Nothing(Vec<String>),
}

/// Reads one key of an object and skips over the rest without building it.
struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Found;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Found, A::Error> {
        let mut found = None;
        let mut keys = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(kind_of(map.next_value::<serde_json::Value>()?));
            } else {
                map.next_value::<IgnoredAny>()?;
                if keys.len() < 20 {
                    keys.push(key);
                }
            }
        }
        Ok(found.unwrap_or(Found::Nothing(keys)))
    }
}

fn kind_of(value: serde_json::Value) -> Found {
    use serde_json::Value;
    match value {
        Value::String(text) => Found::Text(text),
        Value::Null => Found::Text(String::new()),
        Value::Bool(_) => Found::Else("true or false"),
        Value::Number(_) => Found::Else("a number"),
        Value::Array(_) => Found::Else("a list"),
        Value::Object(_) => Found::Else("an object"),
    }
}
