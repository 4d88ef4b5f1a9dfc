//! The keys of a config.json: typed, with their other spellings, and with a record of which were used.

use lingot_spec::problem::{Problem, ProblemKind, Result};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// No size of a model is larger. Keeps products of sizes from foreign files within 64 bits.
const SIZE_MAX: u64 = 1 << 24;

/// The keys of a config.json, or of an object in it, and which of them were used.
pub(super) struct Keys<'a> {
    config: &'a Object,
    /// The object's place in the file, such as `rope_scaling.`; empty for the file itself.
    place: &'static str,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(config: &'a Object) -> Keys<'a> {
        Keys { config, place: "", used: RefCell::default() }
    }

    /// The keys of an object inside the file; `place` names it and ends with a dot.
    pub(super) fn nested(object: &'a Object, place: &'static str) -> Keys<'a> {
        Keys { config: object, place, used: RefCell::default() }
    }

    /// The value of a key, null when absent; does not count as used.
    pub(super) fn get(&self, key: &str) -> &'a Value {
        self.config.get(key).unwrap_or(&Value::Null)
    }

    /// Whether a key has a value other than null.
    pub(super) fn has(&self, key: &str) -> bool {
        !self.get(key).is_null()
    }

    /// Whether a key is there, null or not.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.config.contains_key(key)
    }

    /// Marks keys as used.
    pub(super) fn mark(&self, keys: &[&str]) {
        self.used.borrow_mut().extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// The keys with a value that were not used.
    pub(super) fn unused(&self) -> Object {
        let used = self.used.borrow();
        let rest = self.config.iter().filter(|(key, _)| !used.contains(*key));
        rest.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// A whole number under any of `spellings`, which must agree where several are there.
    pub(super) fn size(&self, spellings: &[&str], default: Option<u32>) -> Result<u32> {
        self.mark(spellings);
        let Some(key) = self.agreed(spellings)? else {
            return default.ok_or_else(|| self.missing(spellings[0]));
        };
        match self.get(key).as_u64() {
            Some(size) if size <= SIZE_MAX => Ok(size as u32),
            _ => Err(self.unsupported(key, &format!("expected a whole number of at most {SIZE_MAX}"))),
        }
    }

    /// A number under a key.
    pub(super) fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        self.mark(&[key]);
        if !self.has(key) {
            return default.ok_or_else(|| self.missing(key));
        }
        self.get(key).as_f64().ok_or_else(|| self.unsupported(key, "expected a number"))
    }

    /// True or false under a key.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.mark(&[key]);
        if !self.has(key) {
            return Ok(default);
        }
        self.get(key).as_bool().ok_or_else(|| self.unsupported(key, "expected true or false"))
    }

    /// The first of the spellings that has a value. Errors if another one has a different value.
    fn agreed<'k>(&self, spellings: &[&'k str]) -> Result<Option<&'k str>> {
        let mut there = spellings.iter().copied().filter(|key| self.has(key));
        let Some(first) = there.next() else { return Ok(None) };
        match there.find(|key| self.get(key) != self.get(first)) {
            None => Ok(Some(first)),
            Some(other) => Err(self.unsupported(
                other,
                &format!("{}{first} = {} names the same thing", self.place, self.get(first)),
            )),
        }
    }

    /// The error for a value that Lingot cannot follow.
    pub(super) fn unsupported(&self, key: &str, why: &str) -> Problem {
        let mut shown = self.get(key).to_string();
        if shown.chars().count() > 200 {
            shown = shown.chars().take(200).collect::<String>() + "...";
        }
        Problem::new(
            format!("config.json has {}{key} = {shown}: {why}", self.place),
            "Lingot cannot compute what this model computes; see docs/hugging-face.md for what it can",
        )
        .of(ProblemKind::Input)
    }

    fn missing(&self, key: &str) -> Problem {
        Problem::new(
            format!("config.json has no {}{key}", self.place),
            "fetch the config.json that belongs to these weights",
        )
        .of(ProblemKind::Input)
    }
}
