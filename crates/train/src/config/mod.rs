//! RUN.toml and `--set` become one `RunSpec`: read, overridden, completed, checked, and written out again.

mod check;
mod propose;
mod roster;
mod source;

pub(crate) use roster::Roster;

use crate::checkpoint::{manifest, newest};
use lingot_spec::event::Prediction;
use lingot_spec::presets;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::RunSpec;
use source::Source;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// A run with every default filled in, and the text that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Every key with its value.
    pub run: RunSpec,
    /// Every key with its value, as TOML: printed, and stored with the run. Resolving it again gives the same
    /// run.
    pub toml: String,
    /// What a plan or a profile predicts for it; the caller that has one puts it here, and it is written to
    /// the log.
    pub prediction: Option<Prediction>,
    /// The file that it was read from and what overrides it, so that a change of the file can be seen; none
    /// where it was parsed from a text.
    pub file: Option<(PathBuf, Vec<String>)>,
}

/// Reads a RUN.toml; `overrides` are `key.path=value`, applied in their order before anything is resolved.
/// What both leave out of learning rate, batch and length is taken from the run's newest checkpoint, or else
/// proposed.
pub fn load(path: &Path, overrides: &[String]) -> Result<Resolved> {
    let bytes = std::fs::read(path).map_err(|error| Problem::io("read", path, &error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::new(
            format!("{} is not UTF-8: byte {at} begins no character", path.display()),
            "RUN.toml is a text file; save it as UTF-8",
        )
    })?;
    let file = Some((path.to_owned(), overrides.to_vec()));
    let parse = |overrides: &[String]| resolve(&text, path, overrides, true);
    let resolved = parse(overrides)?;
    // A run in an absolute folder is found from anywhere, and so must its data be.
    let cache = resolved.run.data.cache.as_ref().map(Path::new).filter(|cache| cache.is_relative());
    match cache.filter(|_| Path::new(&resolved.run.folder).is_absolute()) {
        None => Ok(Resolved { file, ..resolved }),
        Some(cache) => {
            let cache = std::path::absolute(cache).map_err(|error| Problem::io("locate", cache, &error))?;
            let cache = format!("data.cache={:?}", cache.to_string_lossy());
            Ok(Resolved { file, ..parse(&[overrides, &[cache]].concat())? })
        }
    }
}

/// The resolved text of the newest checkpoint in `folder`, if there is one.
fn stored(folder: &Path) -> Option<Table> {
    let (_, newest) = newest::list(folder).ok()?.pop()?;
    manifest::read(&newest).ok()?.head.run.parse().ok()
}

/// Does what `load` does for a text that has been read, and proposes nothing; `path` names it in errors and
/// gives the run its name.
pub fn parse(text: &str, path: &Path, overrides: &[String]) -> Result<Resolved> {
    resolve(text, path, overrides, false)
}

/// Resolves a text. What it leaves out may be proposed; a run that goes on keeps what it was proposed.
fn resolve(text: &str, path: &Path, overrides: &[String], proposes: bool) -> Result<Resolved> {
    let (mut source, mut table) = Source::parse(text, path)?;
    for text in overrides {
        source.apply(&mut table, text)?;
    }
    complete(&source, &mut table, path)?;
    if proposes && propose::is_incomplete(&table) {
        let folder = table.get("folder").and_then(Value::as_str).unwrap_or_default();
        if let Some(before) = stored(&Path::new(folder).join("checkpoints")) {
            propose::keep(&mut table, &before);
        }
        propose::propose(&mut table);
    }
    let run = source.deserialize(table)?;
    check::check(&source, &run)?;
    let toml = toml::to_string_pretty(&run).map_err(|error| {
        Problem::new(
            format!("the resolved run cannot be written as TOML: {error}"),
            "an integer of TOML is at most 2^63 - 1",
        )
    })?;
    Ok(Resolved { run, toml, prediction: None, file: None })
}

/// Fills in what the file leaves to Lingot: the preset's model, the run's name, folder and seed, whole
/// sections.
fn complete(source: &Source, table: &mut Table, path: &Path) -> Result<()> {
    if let Some(Value::Table(model)) = table.get_mut("model") {
        apply_preset(source, model)?;
    }
    let stem = path.file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned());
    let name = table.entry("name").or_insert(Value::String(stem)).as_str().unwrap_or_default().to_owned();
    table.entry("folder").or_insert(Value::String(format!("out/{name}")));
    table.entry("seed").or_insert(Value::Integer(0));
    for section in ["batch", "optimizer", "schedule", "stop", "evaluation", "checkpoint", "device", "sync"] {
        table.entry(section).or_insert(Value::Table(Table::new()));
    }
    Ok(())
}

/// Takes every key that `[model]` leaves out from its `preset`.
fn apply_preset(source: &Source, model: &mut Table) -> Result<()> {
    let Some(name) = model.remove("preset") else {
        return Ok(());
    };
    let known = name.as_str().and_then(presets::preset);
    let preset = known.ok_or_else(|| {
        let text = name.as_str().map_or(name.to_string(), str::to_owned);
        let hint = source::did_you_mean(&text, presets::NAMES.iter().copied());
        source.error("model.preset", format!("there is no preset `{text}`"), hint)
    })?;
    let mut whole = Table::try_from(preset).map_err(|error| {
        Problem::new(format!("preset {name} cannot be written as TOML: {error}"), "this is a bug; report it")
    })?;
    lay_over(&mut whole, std::mem::take(model));
    *model = whole;
    Ok(())
}

/// Puts every key of `over` into `under`, table by table.
fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => lay_over(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}
