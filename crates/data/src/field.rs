//! The text under one key of a JSON object; the rest of the object is skipped and never built.

use lingot_spec::python_json::{NotFinite, repair};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The text of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The text; empty where the record is blank, or the text null or NaN.
    pub text: String,
    /// Halves of surrogate pairs in the record, which were read as U+FFFD.
    pub lone_surrogates: u64,
}

/// Reads the text under `field` of one JSON object. Errors with a clause that follows the number of the line.
pub fn parse_line(line: &str, field: &str) -> Result<Parsed, String> {
    if line.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').is_empty() {
        return Ok(Parsed::default());
    }
    let (found, lone_surrogates) = find(line, field).map_err(|e| format!("is not a JSON object: {e}"))?;
    match found {
        Found::Text(text) => Ok(Parsed { text, lone_surrogates }),
        Found::Else(kind) => Err(format!("has {kind} under `{field}`, not text")),
        Found::Nothing(keys) if keys.is_empty() => Err(format!("has no `{field}`, and no other keys")),
        Found::Nothing(keys) => Err(format!("has no `{field}`; its keys are: {}", keys.join(", "))),
    }
}

/// What an object has under a key.
pub(crate) enum Found {
    Text(String),
    /// Something other than a text, in words.
    Else(&'static str),
    /// No such key; these are the first of those it has.
    Nothing(Vec<String>),
}

/// What an object has under `field`, and how many halves of surrogate pairs it has anywhere.
pub(crate) fn find(object: &str, field: &str) -> Result<(Found, u64), serde_json::Error> {
    let repaired = repair(object, NotFinite::Null);
    let mut reader = serde_json::Deserializer::from_str(&repaired.json);
    let found = FieldOf(field).deserialize(&mut reader)?;
    reader.end()?;
    Ok((found, repaired.lone_surrogates))
}

struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Found;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = None;
        let mut keys = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(map.next_value::<Found>()?);
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

/// A text, or the kind of what is there instead, of which nothing is built.
impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Found, E> {
        Ok(Found::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Text(String::new()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Else("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Else("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Else("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Else("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Else("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Else("an object"))
    }
}
