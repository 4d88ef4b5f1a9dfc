//! Checkpoints: a folder that is either complete or not there, and says by itself whether it is sound.
//!
//! ```text
//! checkpoints/step-00000100/  weights.safetensors  optimizer.safetensors  state.safetensors  manifest.json
//! ```
//!
//! Written as `step-00000100.partial`, every file and folder synced, then renamed. `docs/checkpoints.md` is the
//! reference.

use crate::manifest_file;
use lingot_formats::tensor_file::{self, TensorFile};
use lingot_spec::manifest::{FORMAT, FileEntry, Manifest, ManifestHead, TensorEntry};
use lingot_spec::problem::{Problem, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use lingot_formats::tensor_file::{Named, Tensor};

pub const WEIGHTS: &str = "weights.safetensors";
pub const OPTIMIZER: &str = "optimizer.safetensors";
pub const STATE: &str = "state.safetensors";

/// The contents of a checkpoint, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub manifest: Manifest,
    pub weights: Vec<Tensor>,
    /// `first/<tensor>` and `second/<tensor>`.
    pub moments: Vec<Tensor>,
    /// The routers' state.
    pub buffers: Vec<Tensor>,
}

/// Writes a checkpoint of `manifest.step` into the folder `checkpoints` and returns where it lies. Without moments
/// there is no optimizer file. When this fails or is killed, every earlier checkpoint is as it was.
pub fn save(
    checkpoints: &Path,
    manifest: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<PathBuf> {
    let place = checkpoints.join(folder_name(manifest.step));
    save_as(&place, manifest, weights, moments, buffers)?;
    Ok(place)
}

/// Writes a checkpoint as the folder `place`.
pub fn save_as(
    place: &Path,
    manifest: ManifestHead,
    weights: &[Named<'_>],
    moments: &[Named<'_>],
    buffers: &[Named<'_>],
) -> Result<()> {
    let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| Problem::io("make the folder", parent, &error))?;
    let partial = beside(place, "partial");
    let written = write_partial(&partial, manifest, weights, moments, buffers);
    let settled = written.and_then(|()| settle(&partial, place, parent));
    if settled.is_err() {
        // Best effort: what stays behind is removed at the next start.
        let _ = fs::remove_dir_all(&partial);
    }
    settled
}

/// Everything, each tensor verified.
pub fn load(checkpoint: &Path) -> Result<Loaded> {
    let manifest = manifest_file::read(checkpoint)?;
    if !manifest.files.iter().any(|file| file.name == OPTIMIZER) {
        return Err(Problem::new(
            format!("{} has no optimizer state, so training cannot go on from it", checkpoint.display()),
            "merged checkpoints are for generate, eval and export; resume from one that training wrote",
        ));
    }
    let weights = read_tensors(checkpoint, &manifest, WEIGHTS)?;
    let moments = read_tensors(checkpoint, &manifest, OPTIMIZER)?;
    let buffers = read_tensors(checkpoint, &manifest, STATE)?;
    Ok(Loaded { manifest, weights, moments, buffers })
}

/// Weights and buffers, verified, for those who do not train.
pub fn load_weights(checkpoint: &Path) -> Result<Loaded> {
    let manifest = manifest_file::read(checkpoint)?;
    let weights = read_tensors(checkpoint, &manifest, WEIGHTS)?;
    let buffers = read_tensors(checkpoint, &manifest, STATE)?;
    Ok(Loaded { manifest, weights, moments: Vec::new(), buffers })
}

/// Reads everything, keeps nothing: whether `load` would succeed.
pub fn verify(checkpoint: &Path) -> Result<Manifest> {
    let manifest = manifest_file::read(checkpoint)?;
    for file in &manifest.files {
        visit(checkpoint, &manifest, &file.name, |tensors, entry| Ok(((), tensors.hash(entry)?)))?;
    }
    Ok(manifest)
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
    let mut manifest =
        Manifest { format: FORMAT, head, files: Vec::new(), tensors: Vec::new(), seal: String::new() };
    for (name, tensors) in [(WEIGHTS, weights), (OPTIMIZER, moments), (STATE, buffers)] {
        if name == OPTIMIZER && tensors.is_empty() {
            continue;
        }
        let (bytes, hashes) = tensor_file::write(&partial.join(name), tensors)?;
        manifest.files.push(FileEntry { name: name.into(), bytes });
        manifest.tensors.extend(tensors.iter().zip(hashes).map(|(tensor, blake3)| TensorEntry {
            file: name.into(),
            name: tensor.name.into(),
            dtype: "F32".into(),
            shape: tensor.shape.to_vec(),
            blake3,
        }));
    }
    manifest_file::write(partial, manifest)?;
    sync_folder(partial)
}

/// Puts a complete partial folder in its place. A checkpoint that lies there already is moved aside first, so that a
/// kill in between loses neither: `clean` puts it back.
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

fn read_tensors(checkpoint: &Path, manifest: &Manifest, file: &str) -> Result<Vec<Tensor>> {
    visit(checkpoint, manifest, file, |tensors, entry| {
        let (values, hash) = tensors.read(entry)?;
        Ok(((entry.name.clone(), entry.shape.clone(), values), hash))
    })
}

/// Goes through the tensors of a file in their order and holds each against the manifest.
fn visit<T>(
    checkpoint: &Path,
    manifest: &Manifest,
    file: &str,
    mut read: impl FnMut(&mut TensorFile, &tensor_file::Entry) -> Result<(T, String)>,
) -> Result<Vec<T>> {
    let path = checkpoint.join(file);
    let listed = manifest.files.iter().find(|entry| entry.name == file);
    let listed = listed
        .filter(|_| path.is_file())
        .ok_or_else(|| Problem::damaged(format!("{} is missing", path.display())))?;
    let bytes = fs::metadata(&path).map_err(|error| Problem::io("read", &path, &error))?.len();
    if bytes != listed.bytes {
        let problem = format!("{} has {bytes} bytes, its manifest says {}", path.display(), listed.bytes);
        return Err(Problem::damaged(problem));
    }
    let mut tensors = TensorFile::open(&path)?;
    let entries = std::mem::take(&mut tensors.entries);
    let expected: Vec<&TensorEntry> = manifest.tensors.iter().filter(|entry| entry.file == file).collect();
    if entries.len() != expected.len() {
        let (found, promised) = (entries.len(), expected.len());
        return Err(Problem::damaged(format!(
            "{} has {found} tensors, its manifest says {promised}",
            path.display()
        )));
    }
    let mut all = Vec::with_capacity(entries.len());
    for (entry, expected) in entries.iter().zip(expected) {
        check_entry(&path, entry, expected)?;
        let (value, hash) = read(&mut tensors, entry)?;
        if hash != expected.blake3 {
            return Err(Problem::damaged(format!(
                "tensor `{}` of {} is damaged: its BLAKE3 is {hash}, its manifest says {}",
                entry.name,
                path.display(),
                expected.blake3
            )));
        }
        all.push(value);
    }
    Ok(all)
}

fn check_entry(path: &Path, entry: &tensor_file::Entry, expected: &TensorEntry) -> Result<()> {
    let found = format!("`{}` {:?} {:?}", entry.name, entry.dtype, entry.shape);
    let promised = format!("`{}` {} {:?}", expected.name, expected.dtype, expected.shape);
    if found == promised {
        return Ok(());
    }
    Err(Problem::damaged(format!("{} holds {found} where its manifest says {promised}", path.display())))
}

/// The checkpoint's folder inside `checkpoints`.
pub(crate) fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// `step-00000100` and `partial` make `step-00000100.partial`.
pub(crate) fn beside(place: &Path, suffix: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    place.with_file_name(name)
}

/// Removes a folder, if it is there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Problem::io("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

/// Makes the names inside a folder survive a power cut; only Unix lets a folder be synced.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|file| file.sync_all());
        synced.map_err(|error| Problem::io("sync", folder, &error))?;
    }
    Ok(())
}
