//! `manifest.json` on disk: sealed when written, and believed only when version and seal are right.

use super::places::is_there;
use lingot_formats::disk::{self, Call};
use lingot_spec::manifest::{FORMAT, Manifest};
use lingot_spec::model::ModelSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

pub(crate) const MANIFEST: &str = "manifest.json";

/// Reads a checkpoint's manifest, but none of the tensors.
pub fn read(checkpoint: &Path) -> Result<Manifest> {
    let path = checkpoint.join(MANIFEST);
    let bytes = match disk::call(Call::Read, &path, || fs::read(&path)) {
        Ok(bytes) => bytes,
        Err(_) if !is_there(checkpoint)? => {
            return Err(Problem::new(
                format!("there is no checkpoint {}", checkpoint.display()),
                "name a run's folder or one of the folders in its `checkpoints`",
            ));
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
            return Err(Problem::damaged(format!("{} is missing", path.display())));
        }
        Err(error) => return Err(Problem::io("read", &path, &error)),
    };
    let text =
        String::from_utf8(bytes).map_err(|error| Problem::damaged(format!("{}: {error}", path.display())))?;
    check_version(&path, &text)?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| Problem::damaged(format!("{}: {error}", path.display())))?;
    let found = seal(&text, &manifest.seal);
    if found.as_deref() != Some(manifest.seal.as_str()) {
        return Err(Problem::damaged(format!(
            "{} was changed after it was written: its BLAKE3 is {}, its seal says {}",
            path.display(),
            found.as_deref().unwrap_or("none"),
            manifest.seal
        )));
    }
    Ok(manifest)
}

/// Seals, writes and syncs the manifest.
pub(crate) fn write(folder: &Path, mut manifest: Manifest) -> Result<()> {
    let path = folder.join(MANIFEST);
    manifest.seal = "0".repeat(64);
    let unsealed = serde_json::to_string_pretty(&manifest).map_err(|error| {
        Problem::new(format!("cannot write {}: {error}", path.display()), "this is a bug; report it")
    })?;
    let hash = blake3::hash(unsealed.as_bytes()).to_hex().to_string();
    let text = exchange_last(&unsealed, &manifest.seal, &hash).unwrap_or_default();
    let written = disk::call(Call::Create, &path, || File::create(&path)).and_then(|mut file| {
        disk::call(Call::Write, &path, || file.write_all(text.as_bytes()))?;
        disk::call(Call::Sync, &path, || file.sync_all())
    });
    written.map_err(|error| Problem::io("write", &path, &error))
}

/// Errors unless a checkpoint is of the model that a run wants.
pub fn check_model(checkpoint: &Path, found: &ModelSpec, wanted: &ModelSpec) -> Result<()> {
    match difference(found, wanted) {
        None => Ok(()),
        Some((key, found, wanted)) => Err(Problem::new(
            format!(
                "{} is of another model: its {key} is {found}, the run says {wanted}",
                checkpoint.display()
            ),
            "give the run the checkpoint's model, or another `folder` to start anew",
        )
        .of(ProblemKind::Input)),
    }
}

/// Returns the first key, with both values, in which two models differ.
pub(crate) fn difference(a: &ModelSpec, b: &ModelSpec) -> Option<(String, String, String)> {
    let [a, b] = [a, b].map(|model| serde_json::to_value(model).unwrap_or_default());
    first_difference("model", &a, &b)
}

/// Returns the problem of a manifest whose format is newer than this program.
pub(crate) fn is_newer(checkpoint: &Path) -> Option<Problem> {
    let path = checkpoint.join(MANIFEST);
    let text = fs::read_to_string(&path).ok()?;
    check_version(&path, &text).err()
}

fn check_version(path: &Path, text: &str) -> Result<()> {
    let format = serde_json::from_str::<Value>(text).ok().and_then(|value| value.get("format")?.as_u64());
    match format {
        Some(format) if format > u64::from(FORMAT) => Err(Problem::new(
            format!("{} is of format {format}, this Lingot reads up to format {FORMAT}", path.display()),
            "use the Lingot that wrote the checkpoint, or a newer one",
        )),
        _ => Ok(()),
    }
}

/// The hash of the text with its own seal blanked out.
fn seal(text: &str, claimed: &str) -> Option<String> {
    let blank = exchange_last(text, claimed, &"0".repeat(64)).filter(|_| claimed.len() == 64)?;
    Some(blake3::hash(blank.as_bytes()).to_hex().to_string())
}

/// The seal is the last field, so the last match is the seal.
fn exchange_last(text: &str, from: &str, to: &str) -> Option<String> {
    let at = text.rfind(from)?;
    Some(format!("{}{to}{}", &text[..at], &text[at + from.len()..]))
}

fn first_difference(key: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        let inner = |name: &String| {
            first_difference(&format!("{key}.{name}"), a.get(name)?, b.get(name).unwrap_or(&Value::Null))
        };
        return a.keys().find_map(inner);
    }
    (a != b).then(|| (key.to_owned(), a.to_string(), b.to_string()))
}
