//! Reading a checkpoint: every size, name, shape and hash is compared with the manifest.

use super::places::is_there;
use super::{OPTIMIZER, STATE, Tensor, WEIGHTS, manifest};
use lingot_formats::tensor_file::{self, TensorFile};
use lingot_spec::manifest::{Manifest, TensorEntry};
use lingot_spec::problem::{Problem, Result};
use std::fs;
use std::path::Path;

/// The contents of a checkpoint, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the checkpoint is.
    pub manifest: Manifest,
    /// Every trained tensor.
    pub weights: Vec<Tensor>,
    /// `first/<tensor>` and `second/<tensor>`; then what an engine needs between steps, as `sync/...`.
    pub moments: Vec<Tensor>,
    /// The routers' state.
    pub buffers: Vec<Tensor>,
}

/// Reads everything, and verifies each tensor.
pub fn load(checkpoint: &Path) -> Result<Loaded> {
    let manifest = manifest::read(checkpoint)?;
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

/// Reads and verifies weights and buffers, which is all that inference needs.
pub fn load_weights(checkpoint: &Path) -> Result<Loaded> {
    let manifest = manifest::read(checkpoint)?;
    let weights = read_tensors(checkpoint, &manifest, WEIGHTS)?;
    let buffers = read_tensors(checkpoint, &manifest, STATE)?;
    Ok(Loaded { manifest, weights, moments: Vec::new(), buffers })
}

/// Reads and verifies everything without keeping it. Errors if `load` would.
pub fn verify(checkpoint: &Path) -> Result<Manifest> {
    let manifest = manifest::read(checkpoint)?;
    for file in &manifest.files {
        visit(checkpoint, &manifest, &file.name, |tensors, entry| Ok(((), tensors.hash(entry)?)))?;
    }
    Ok(manifest)
}

fn read_tensors(checkpoint: &Path, manifest: &Manifest, file: &str) -> Result<Vec<Tensor>> {
    visit(checkpoint, manifest, file, |tensors, entry| {
        let (values, hash) = tensors.read(entry)?;
        Ok(((entry.name.clone(), entry.shape.clone(), values), hash))
    })
}

/// Visits the tensors of a file in their order, and compares each with the manifest.
fn visit<T>(
    checkpoint: &Path,
    manifest: &Manifest,
    file: &str,
    mut read: impl FnMut(&mut TensorFile, &tensor_file::Entry) -> Result<(T, String)>,
) -> Result<Vec<T>> {
    let path = checkpoint.join(file);
    let listed = manifest.files.iter().find(|entry| entry.name == file);
    let is_there = is_there(&path)?;
    let listed = listed
        .filter(|_| is_there)
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
