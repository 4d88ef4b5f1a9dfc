//! Writing a checkpoint: as a partial folder that is renamed once it is complete, in the background while a
//! run goes on.

use super::places::{beside, folder_name, remove, sync_folder};
use super::snapshot::Snapshot;
use super::{Named, OPTIMIZER, STATE, Tensor, WEIGHTS, manifest, newest};
use lingot_formats::tensor_file;
use lingot_spec::manifest::{FORMAT, FileEntry, Manifest, ManifestHead, TensorEntry};
use lingot_spec::problem::{Problem, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Writes checkpoints in the background, one at a time.
pub(crate) struct Saver {
    folder: PathBuf,
    newest: PathBuf,
    running: Option<JoinHandle<Result<PathBuf>>>,
}

/// A checkpoint to be written.
pub(crate) struct Saving {
    pub(crate) head: ManifestHead,
    pub(crate) snapshot: Snapshot,
    /// Checkpoints to keep, this one included; 0 keeps all.
    pub(crate) keep: u32,
}

impl Saver {
    /// Makes a saver for the run in `folder`, whose newest checkpoint is `newest`.
    pub(crate) fn new(folder: &Path, newest: Option<&Path>) -> Saver {
        let folder = folder.join("checkpoints");
        let newest = newest.map_or_else(|| folder.clone(), Path::to_owned);
        Saver { folder, newest, running: None }
    }

    /// Begins to write a checkpoint once the one before is safe. Returns where it will lie.
    pub(crate) fn begin(&mut self, saving: Saving) -> Result<PathBuf> {
        self.finish()?;
        let place = self.folder.join(folder_name(saving.head.step));
        let folder = self.folder.clone();
        self.running = Some(std::thread::spawn(move || {
            let Saving { head, snapshot, keep } = saving;
            let Snapshot { weights, moments, buffers } = &snapshot;
            let path = save(&folder, head, &named(weights), &named(moments), &named(buffers))?;
            newest::prune(&folder, keep)?;
            Ok(path)
        }));
        Ok(place)
    }

    /// Waits for the save under way; returns the newest checkpoint.
    pub(crate) fn finish(&mut self) -> Result<PathBuf> {
        if let Some(running) = self.running.take() {
            let panicked = |_| Problem::bug("the thread that writes checkpoints panicked");
            self.newest = running.join().map_err(panicked)??;
        }
        Ok(self.newest.clone())
    }
}

impl Drop for Saver {
    /// A run that ends in an error still finishes the save it began.
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// Writes a checkpoint of `head.step` into the folder `checkpoints` and returns where it lies. Without
/// moments there is no optimizer file. When this fails or is killed, every earlier checkpoint is as it was.
pub fn save(
    checkpoints: &Path,
    head: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<PathBuf> {
    let place = checkpoints.join(folder_name(head.step));
    save_as(&place, head, weights, moments, buffers)?;
    Ok(place)
}

/// Writes a checkpoint as the folder `place`.
pub fn save_as(
    place: &Path,
    head: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<()> {
    let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| Problem::io("make the folder", parent, &error))?;
    let partial = beside(place, "partial");
    let written = write_partial(&partial, head, weights, moments, buffers);
    let settled = written.and_then(|()| settle(&partial, place, parent));
    if settled.is_err() {
        // Best effort: what stays behind is removed at the next start.
        let _ = fs::remove_dir_all(&partial);
    }
    settled
}

fn write_partial(
    partial: &Path,
    head: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<()> {
    remove(partial)?;
    fs::create_dir(partial).map_err(|error| Problem::io("make the folder", partial, &error))?;
    let mut contents =
        Manifest { format: FORMAT, head, files: Vec::new(), tensors: Vec::new(), seal: String::new() };
    for (name, tensors) in [(WEIGHTS, weights), (OPTIMIZER, moments), (STATE, buffers)] {
        if name == OPTIMIZER && tensors.is_empty() {
            continue;
        }
        let (bytes, hashes) = tensor_file::write(&partial.join(name), tensors)?;
        contents.files.push(FileEntry { name: name.into(), bytes });
        contents.tensors.extend(tensors.iter().zip(hashes).map(|(tensor, blake3)| TensorEntry {
            file: name.into(),
            name: tensor.name.into(),
            dtype: "F32".into(),
            shape: tensor.shape.to_vec(),
            blake3,
        }));
    }
    manifest::write(partial, contents)?;
    sync_folder(partial)
}

/// Puts a complete partial folder in its place. A checkpoint that lies there already is moved aside first, so
/// that a kill in between loses neither: `clean` puts it back.
fn settle(partial: &Path, place: &Path, parent: &Path) -> Result<()> {
    let old = beside(place, "old");
    if place.exists() {
        remove(&old)?;
        fs::rename(place, &old).map_err(|error| Problem::io("move aside", place, &error))?;
    }
    fs::rename(partial, place).map_err(|error| Problem::io("rename", partial, &error))?;
    sync_folder(parent)?;
    remove(&old)
}

/// Borrows tensors for writing.
pub(super) fn named(tensors: &[Tensor]) -> Vec<Named<'_>> {
    tensors.iter().map(|(name, shape, values)| Named { name, shape, values }).collect()
}
