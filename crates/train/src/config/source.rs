//! Where each key of a run was written, so that every error can show the line, and guess what was meant.

use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::{Recompute, RunSpec};
use serde::Deserialize;
use serde_path_to_error::Segment;
use std::collections::BTreeMap;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// Deeper nesting than any RUN.toml needs; the limit keeps hostile files from exhausting the stack.
const DEEPEST: usize = 32;

/// The text of a RUN.toml and the origin of its keys.
pub(super) struct Source<'a> {
    text: &'a str,
    path: String,
    /// Dotted paths (array elements by number) and where they were set.
    origins: BTreeMap<String, Origin>,
}

enum Origin {
    /// Byte of the text.
    File(usize),
    /// The `--set` argument.
    Set(String),
}

impl<'a> Source<'a> {
    pub(super) fn parse(text: &'a str, path: &Path) -> Result<(Source<'a>, Table)> {
        let mut source = Source { text, path: path.display().to_string(), origins: BTreeMap::new() };
        let parsed = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let hint = "RUN.toml is a TOML file: sections in [brackets], lines of key = value";
            source.at_byte(at, error.message(), hint)
        })?;
        let table = source.table("", parsed.into_inner(), 0)?;
        Ok((source, table))
    }

    /// Applies one `key.path=value`; the value is TOML, or else a bare word.
    pub(super) fn apply(&mut self, table: &mut Table, text: &str) -> Result<()> {
        let failed = |problem: String| {
            Problem::new(problem, "write it as --set section.key=value, for example --set stop.steps=500")
        };
        let shown = short(text);
        let (key, value) = text.split_once('=').ok_or_else(|| failed(format!("--set {shown} has no `=`")))?;
        let (key, value) = (key.trim(), value.trim());
        let parts: Vec<&str> = key.split('.').map(str::trim).collect();
        if parts.iter().any(|part| part.is_empty()) || parts.len() > DEEPEST {
            return Err(failed(format!("--set {shown}: `{}` is not a key", short(key))));
        }
        let place = place(table, &parts).map_err(|problem| failed(format!("--set {shown}: {problem}")))?;
        *place = value_of(value);
        self.origins.insert(parts.join("."), Origin::Set(text.to_owned()));
        Ok(())
    }

    pub(super) fn deserialize(&self, table: Table) -> Result<RunSpec> {
        let recompute = table.get("device").and_then(|device| device.get("recompute")).cloned();
        serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            let parts: Vec<String> = error.path().iter().filter_map(part).collect();
            let message = error.inner().message();
            match recompute {
                Some(value) if parts == ["device", "recompute"] => self.bad_recompute(value, message),
                _ => self.explain(parts, message),
            }
        })
    }

    /// An error about a key: where it was written, the line itself, the hint.
    pub(super) fn error(&self, key: &str, problem: impl AsRef<str>, hint: impl Into<String>) -> Problem {
        let mut key = key;
        loop {
            match self.origins.get(key) {
                Some(Origin::File(at)) => return self.at_byte(*at, problem.as_ref(), hint),
                Some(Origin::Set(text)) => {
                    return Problem::new(format!("--set {}: {}", short(text), problem.as_ref()), hint);
                }
                // A value that is not in the file comes from the section above, such as a preset.
                None => match key.rsplit_once('.') {
                    Some((above, _)) => key = above,
                    None => return Problem::new(format!("{}: {}", self.path, problem.as_ref()), hint),
                },
            }
        }
    }

    fn at_byte(&self, at: usize, problem: &str, hint: impl Into<String>) -> Problem {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let number = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let line: String = self.text.lines().nth(number - 1).unwrap_or("").chars().take(160).collect();
        Problem::new(format!("{}:{number}: {problem}\n  {number} | {}", self.path, line.trim_end()), hint)
    }

    fn table(&mut self, prefix: &str, table: DeTable<'_>, depth: usize) -> Result<Table> {
        let mut result = Table::new();
        for (key, value) in table {
            let path = join(prefix, key.get_ref());
            self.origins.insert(path.clone(), Origin::File(key.span().start));
            let value = self.value(&path, value, depth + 1)?;
            result.insert(key.into_inner().into_owned(), value);
        }
        Ok(result)
    }

    fn value(&mut self, path: &str, value: Spanned<DeValue<'_>>, depth: usize) -> Result<Value> {
        let at = value.span().start;
        if depth > DEEPEST {
            return Err(self.at_byte(at, "too deeply nested", "a run has sections, and keys in them"));
        }
        Ok(match value.into_inner() {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    let problem = format!("{number} is too large");
                    return Err(self.at_byte(at, &problem, "an integer of TOML is at most 2^63 - 1"));
                }
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => return Err(self.at_byte(at, "not a number", "write it as 0.001 or 1e-3")),
            },
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Datetime(value) => Value::Datetime(value),
            DeValue::Array(items) => {
                let mut result = Vec::new();
                for (index, item) in items.into_iter().enumerate() {
                    let path = join(path, &index.to_string());
                    self.origins.insert(path.clone(), Origin::File(item.span().start));
                    result.push(self.value(&path, item, depth + 1)?);
                }
                Value::Array(result)
            }
            DeValue::Table(table) => Value::Table(self.table(path, table, depth)?),
        })
    }

    /// Turns serde's words into ours; its messages put every name in backticks, the wrong one first.
    fn explain(&self, mut parts: Vec<String>, message: &str) -> Problem {
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let (name, known) = names.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
        if message.starts_with("unknown field") {
            if parts.last().is_some_and(|last| last == name) {
                parts.pop();
            }
            let section = parts.join(".");
            let preset = (section == "model").then_some("preset");
            let hint = did_you_mean(name, known.iter().copied().chain(preset));
            return self.error(
                &join(&section, name),
                format!("unknown key `{name}`{}", within(&section)),
                hint,
            );
        }
        let key = parts.join(".");
        if message.starts_with("unknown variant") {
            let hint = did_you_mean(name, known.iter().copied());
            return self.error(&key, format!("{key} cannot be `{name}`"), hint);
        }
        if message.starts_with("missing field") {
            return self.missing(&key, name);
        }
        self.error(&key, format!("{key}: {message}"), "docs/run-toml.md lists every key and what it takes")
    }

    fn missing(&self, section: &str, name: &str) -> Problem {
        let hint = match (section, name) {
            ("", "model") => "add [model] with preset = \"toy\"".into(),
            ("", "data") | ("data", "corpora") => {
                "add [data] with corpora = [{ path = \"text.txt\" }]".to_owned()
            }
            ("model" | "model.router", _) => {
                format!("set {section}.{name}, or start from a preset: model.preset = \"toy\"")
            }
            _ => format!("set {}", join(section, name)),
        };
        self.error(&join(section, name), format!("`{name}` is missing{}", within(section)), hint)
    }

    /// Explains a wrong recompute policy. An untagged enum only says that nothing matched; trying the
    /// policies one by one says more.
    fn bad_recompute(&self, value: Value, message: &str) -> Problem {
        let single = |value: Value, key: &str| {
            let error = Recompute::deserialize(value).err()?;
            Some(self.explain(key.split('.').map(str::to_owned).collect(), error.message()))
        };
        let error = match value {
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .find_map(|(index, item)| single(item, &format!("device.recompute.{index}"))),
            value => single(value, "device.recompute"),
        };
        error.unwrap_or_else(|| self.error("device.recompute", message, "use one policy, or one per layer"))
    }
}

/// Returns "did you mean" with the nearest name, or else all names.
pub(super) fn did_you_mean<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().min_by_key(|other| strsim::damerau_levenshtein(name, other));
    match nearest {
        Some(near) if strsim::damerau_levenshtein(name, near) <= (near.len() / 3).max(1) => {
            format!("did you mean `{near}`?")
        }
        _ => format!("known are {}", known.join(", ")),
    }
}

/// The place of a dotted key, with the tables on the way made as needed.
fn place<'t>(table: &'t mut Table, parts: &[&str]) -> std::result::Result<&'t mut Value, String> {
    let (first, rest) = parts.split_first().ok_or("no key")?;
    let nothing = || Value::Table(Table::new());
    let mut value = table.entry(*first).or_insert_with(nothing);
    for part in rest {
        value = match value {
            Value::Table(table) => table.entry(*part).or_insert_with(nothing),
            Value::Array(items) => {
                let count = items.len();
                let item = part.parse::<usize>().ok().and_then(|index| items.get_mut(index));
                item.ok_or_else(|| format!("`{part}` is none of the {count} elements, which count from 0"))?
            }
            _ => return Err(format!("the key above `{part}` is a plain value, not a section")),
        };
    }
    Ok(value)
}

/// Parsed as TOML if it is exactly one value, otherwise a word.
fn value_of(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok().filter(|table| table.len() == 1);
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The beginning of an argument, which may be of any length.
fn short(text: &str) -> String {
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn part(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn within(section: &str) -> String {
    if section.is_empty() { " at the top of the file".into() } else { format!(" in [{section}]") }
}
