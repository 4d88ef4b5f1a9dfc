//! The folder of a run's checkpoints: finding the newest sound one, removing old ones, cleaning up after a
//! kill.

use super::manifest::{MANIFEST, is_newer};
use super::places::{beside, folder_name, remove, sync_folder};
use super::{WEIGHTS, verify};
use lingot_spec::problem::{Problem, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the newest checkpoint that verifies, and a warning for every newer one that does not; none when
/// there are no checkpoints. Errors if there are some and none is sound: to start anew is the user's
/// decision.
pub fn latest(checkpoints: &Path) -> Result<Option<(PathBuf, Vec<String>)>> {
    let mut warnings = Vec::new();
    let mut first = None;
    for (_, path) in list(checkpoints)?.into_iter().rev() {
        // A newer format is not damage: falling back from it would quietly lose its steps.
        if let Some(error) = is_newer(&path) {
            return Err(error);
        }
        match verify(&path) {
            Ok(_) => return Ok(Some((path, warnings))),
            Err(error) => {
                warnings.push(format!(
                    "skipped the damaged checkpoint {}: {}",
                    path.display(),
                    error.problem
                ));
                first.get_or_insert(error);
            }
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
    let mut all = list(checkpoints)?;
    if keep > 0 && all.len() > keep as usize {
        all.truncate(all.len() - keep as usize);
        for (_, path) in all {
            // Renamed first, so that a kill while the files go leaves no checkpoint with holes.
            let partial = beside(&path, "partial");
            remove(&partial)?;
            fs::rename(&path, &partial).map_err(|error| Problem::io("remove", &path, &error))?;
            remove(&partial)?;
        }
    }
    Ok(())
}

/// Cleans up after a kill, before anything is read: partial folders go; a checkpoint that was being replaced
/// comes back unless its replacement is there.
pub fn clean(checkpoints: &Path) -> Result<()> {
    for (name, path) in folders(checkpoints)? {
        if name.ends_with(".partial") {
            remove(&path)?;
        } else if let Some(original) = name.strip_suffix(".old") {
            let original = checkpoints.join(original);
            if original.exists() {
                remove(&path)?;
            } else {
                fs::rename(&path, &original).map_err(|error| Problem::io("rename", &path, &error))?;
                sync_folder(checkpoints)?;
            }
        }
    }
    Ok(())
}

/// Renames the checkpoints after `step` to `step-....damaged`, for a run that had to fall back behind them:
/// they are not lost, but are no longer counted by `prune` or found by `latest`.
pub fn set_aside_newer(checkpoints: &Path, step: u64) -> Result<()> {
    for (_, path) in list(checkpoints)?.into_iter().filter(|(found, _)| *found > step) {
        let aside = beside(&path, "damaged");
        remove(&aside)?;
        fs::rename(&path, &aside).map_err(|error| Problem::io("move aside", &path, &error))?;
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
    if !checkpoints.exists() {
        return Ok(Vec::new());
    }
    let failed = |error: std::io::Error| Problem::io("list", checkpoints, &error);
    let mut all = Vec::new();
    for entry in fs::read_dir(checkpoints).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(name) = entry.file_name().to_str().filter(|_| entry.path().is_dir()) {
            all.push((name.to_owned(), entry.path()));
        }
    }
    Ok(all)
}
