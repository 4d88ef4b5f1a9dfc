//! The folder of a run's checkpoints: finding the newest sound one, removing old ones, cleaning up after a
//! kill.

use super::manifest::{MANIFEST, is_newer};
use super::places::{beside, folder_name, is_there, remove, rename, sync_folder};
use super::{WEIGHTS, verify};
use crate::patience::reading;
use lingot_formats::disk::{self, Call};
use lingot_spec::problem::{Problem, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Returns the newest checkpoint that verifies, and a warning for every newer one that does not; none when
/// there are no checkpoints. Errors if there are some and none is sound: to start anew is the user's
/// decision. Errors too if one cannot be read now, which says nothing about what it holds.
pub fn latest(checkpoints: &Path) -> Result<Option<(PathBuf, Vec<String>)>> {
    latest_before(checkpoints, None)
}

/// Does what `latest` does for the checkpoints that are older than step `before`.
pub(crate) fn latest_before(
    checkpoints: &Path,
    before: Option<u64>,
) -> Result<Option<(PathBuf, Vec<String>)>> {
    let mut warnings = Vec::new();
    let mut first = None;
    let all = reading(|| list(checkpoints))?;
    let all = all.into_iter().filter(|(step, _)| before.is_none_or(|before| *step < before));
    for (_, path) in all.rev() {
        // A newer format is not damage: falling back from it would quietly lose its steps.
        if let Some(error) = is_newer(&path) {
            return Err(error);
        }
        match reading(|| verify(&path)) {
            Ok(_) => return Ok(Some((path, warnings))),
            Err(error) if error.kind.is_damage() => {
                warnings.push(format!(
                    "skipped the damaged checkpoint {}: {}",
                    path.display(),
                    error.problem
                ));
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match first {
        None => Ok(None),
        Some(error) => Err(Problem::new(
            format!("no checkpoint in {} is sound; the newest: {}", checkpoints.display(), error.problem),
            "copy a sound checkpoint there, or remove the folder to start from the first step",
        )),
    }
}

/// Removes all but the newest `keep` checkpoints; 0 keeps all.
pub fn prune(checkpoints: &Path, keep: u32) -> Result<()> {
    prune_but(checkpoints, keep, None)
}

/// Removes all but the newest `keep` checkpoints and the newest one that is not newer than step `sound`; 0
/// keeps all.
pub fn prune_but(checkpoints: &Path, keep: u32, sound: Option<u64>) -> Result<()> {
    let mut all = list(checkpoints)?;
    if keep == 0 || all.len() <= keep as usize {
        return Ok(());
    }
    let sound = sound.and_then(|sound| all.iter().map(|(step, _)| *step).rfind(|step| *step <= sound));
    all.truncate(all.len() - keep as usize);
    for (_, path) in all.into_iter().filter(|(step, _)| Some(*step) != sound) {
        // Renamed first, so that a kill while the files go leaves no checkpoint with holes.
        let partial = beside(&path, "partial");
        remove(&partial)?;
        rename("remove", &path, &partial)?;
        remove(&partial)?;
    }
    Ok(())
}

/// Cleans up after a kill, before anything is read: partial folders go; a checkpoint that was being replaced
/// comes back unless its replacement is there. What cannot be removed now is removed another time.
pub fn clean(checkpoints: &Path) -> Result<()> {
    for (name, path) in reading(|| folders(checkpoints))? {
        if name.ends_with(".partial") {
            let _ = remove(&path);
        } else if let Some(original) = name.strip_suffix(".old") {
            let original = checkpoints.join(original);
            if is_there(&original)? {
                let _ = remove(&path);
            } else {
                rename("rename", &path, &original)?;
                sync_folder(checkpoints)?;
            }
        }
    }
    Ok(())
}

/// Renames the checkpoints after `step` to `step-....damaged`, for a run that had to fall back behind them:
/// they are not lost, but are no longer counted by `prune` or found by `latest`.
pub fn set_aside_newer(checkpoints: &Path, step: u64) -> Result<()> {
    set_aside(checkpoints, Some(step), "damaged")
}

/// Renames the checkpoints after `step`, or all, by adding a word to their names. Those that an earlier fall
/// left under the same name are replaced.
pub(crate) fn set_aside(checkpoints: &Path, step: Option<u64>, word: &str) -> Result<()> {
    for (_, path) in list(checkpoints)?.into_iter().filter(|(found, _)| step.is_none_or(|step| *found > step))
    {
        let aside = beside(&path, word);
        remove(&aside)?;
        rename("move aside", &path, &aside)?;
    }
    Ok(())
}

/// Returns the checkpoint that a path means: a checkpoint folder itself, or the newest of a run's folder or
/// of a folder of checkpoints. It is not verified here: loading does that, and says when it is damaged; older
/// ones can be named by their own folder.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if path.join(MANIFEST).is_file() || path.join(WEIGHTS).is_file() {
        return Ok(path.to_owned());
    }
    for folder in [path.join("checkpoints"), path.to_owned()] {
        if let Some((_, newest)) = list(&folder)?.pop() {
            return Ok(newest);
        }
    }
    Err(Problem::new(
        format!("{} holds no checkpoint", path.display()),
        "name a run's folder, or one of the folders in its `checkpoints`",
    ))
}

/// Lists steps and paths of the complete checkpoints, oldest first.
pub fn list(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut all: Vec<(u64, PathBuf)> = folders(checkpoints)?
        .into_iter()
        .filter_map(|(name, path)| {
            let step: u64 = name.strip_prefix("step-")?.parse().ok()?;
            (folder_name(step) == name).then_some((step, path))
        })
        .collect();
    all.sort();
    Ok(all)
}

fn folders(checkpoints: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |error: std::io::Error| Problem::io("list", checkpoints, &error);
    let entries = match disk::call(Call::Read, checkpoints, || fs::read_dir(checkpoints)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_folder = match fs::metadata(entry.path()) {
            Ok(about) => about.is_dir(),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(Problem::io("read", &entry.path(), &error)),
        };
        if let Some(name) = entry.file_name().to_str().filter(|_| is_folder) {
            all.push((name.to_owned(), entry.path()));
        }
    }
    Ok(all)
}
