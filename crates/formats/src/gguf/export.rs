//! A trained model becomes a GGUF file, whole or not at all.

use super::file::{self, Planned};
use super::layout::layout;
use super::metadata::metadata;
use super::vocabulary::vocabulary;
use crate::abilities::{Abilities, GGUF};
use crate::hugging_face::{ElementType, Source};
use crate::weights::{encode, folded, gather};
use lingot_spec::model::ModelSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A file to write, and how.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The file, which must be absent.
    pub file: &'a Path,
    /// How most numbers are stored. Norms, routers and selection biases stay F32.
    pub element_type: ElementType,
}

/// A written file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The file.
    pub file: PathBuf,
    /// The architecture of llama.cpp that computes the model.
    pub architecture: &'static str,
    /// How many tensors were written.
    pub tensors: usize,
    /// Bytes of their numbers.
    pub bytes: u64,
    /// Whether the head was divided by its column norms, as the model does at every step.
    pub norm_head_folded: bool,
}

/// Writes a model as a GGUF file. Errors if no architecture can express the model, or llama.cpp would split
/// text in another way than the model's tokenizer.
pub fn export(source: &Source, target: &Target) -> Result<Exported> {
    let architecture = architecture_of(source.model)?;
    let model = folded(source.model);
    let context_tokens = source.kept.and_then(|kept| kept.context_tokens()).unwrap_or(source.context_tokens);
    let mut keys = metadata(&model, architecture, target.element_type, context_tokens);
    keys.extend(vocabulary(source.tokenizer_folder, model.vocabulary)?);
    let values = gather(source)?;
    let entries = layout(&model, architecture);
    let planned: Vec<Planned> = entries
        .iter()
        .map(|entry| Planned {
            name: entry.name.clone(),
            shape: entry.shape.clone(),
            element: if entry.is_precise { ElementType::F32 } else { target.element_type },
        })
        .collect();
    let partial = begin(target.file)?;
    let written = file::write(&partial, &keys, &planned, |index, bytes| {
        let Planned { name, element, .. } = &planned[index];
        encode(name, &entries[index].pieces, *element, &values, bytes)
    });
    let put = written.and_then(|bytes| {
        let renamed = fs::rename(&partial, target.file);
        renamed.map_err(|error| Problem::io("create", target.file, &error)).map(|()| bytes)
    });
    if put.is_err() {
        let _ = fs::remove_file(&partial);
    }
    Ok(Exported {
        file: target.file.into(),
        architecture: architecture.name,
        tensors: planned.len(),
        bytes: put?,
        norm_head_folded: source.model.norm_head,
    })
}

/// The first architecture that can express a model. Errors with what stands against the one that comes
/// nearest.
fn architecture_of(model: &ModelSpec) -> Result<&'static Abilities> {
    let nearest = GGUF.iter().min_by_key(|architecture| architecture.reasons(model).len());
    let nearest = nearest.ok_or_else(|| Problem::bug("GGUF has no architectures"))?;
    let reasons = nearest.reasons(model);
    if reasons.is_empty() {
        return Ok(nearest);
    }
    Err(Problem::new(
        format!("no architecture of GGUF can express this model; nearest: {}", reasons.join("; ")),
        "`lingot export --help` shows what each can; export in a format of Hugging Face instead",
    )
    .of(ProblemKind::Input))
}

/// The file that is written first, beside its place. Errors if something is there, or its folder is not.
fn begin(file: &Path) -> Result<PathBuf> {
    if fs::symlink_metadata(file).is_ok() {
        return Err(Problem::new(
            format!("{} exists already", file.display()),
            "name a file that does not exist, such as model.gguf",
        )
        .of(ProblemKind::Input));
    }
    let Some(name) = file.file_name() else {
        return Err(Problem::new(
            format!("{} is not the name of a file", file.display()),
            "name a file that does not exist, such as model.gguf",
        )
        .of(ProblemKind::Input));
    };
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| Problem::io("create", folder, &error))?;
    }
    let mut partial = name.to_os_string();
    partial.push(".partial");
    Ok(file.with_file_name(partial))
}
