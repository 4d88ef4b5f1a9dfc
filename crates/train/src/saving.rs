//! How a worker is saved and comes back: the same bits, whether or not anything happened in between.

use crate::checkpoint::{self, Loaded, Named, Tensor};
use crate::config::Resolved;
use crate::worker::Worker;
use crate::{checkpoints, log, manifest_file};
use lingot_model::Model;
use lingot_spec::event::Event;
use lingot_spec::manifest::ManifestHead;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::tensors::{TensorSpec, buffers};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// The newest sound checkpoint, and what was wrong with newer ones.
pub(crate) type Found = (PathBuf, Vec<String>);

/// Writes checkpoints in the background, one at a time.
pub(crate) struct Saver {
    folder: PathBuf,
    newest: PathBuf,
    running: Option<JoinHandle<Result<PathBuf>>>,
}

impl Saver {
    /// For the run in `folder`; also the newest sound checkpoint, and what was wrong with newer ones.
    pub(crate) fn open(folder: &Path) -> Result<(Saver, Option<Found>)> {
        let folder = folder.join("checkpoints");
        let found = checkpoints::latest(&folder)?;
        let newest = found.as_ref().map_or_else(|| folder.clone(), |(path, _)| path.clone());
        Ok((Saver { folder, newest, running: None }, found))
    }

    /// Waits for the save under way; returns the newest checkpoint.
    pub(crate) fn finish(&mut self) -> Result<PathBuf> {
        if let Some(running) = self.running.take() {
            let panicked =
                |_| Problem::new("the thread that writes checkpoints panicked", "this is a bug; report it");
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

impl Worker<'_> {
    /// Copies everything off the device and writes it in the background, once the save before is safe.
    pub(crate) fn save(&mut self, resolved: &Resolved) -> Result<PathBuf> {
        self.saver.finish()?;
        let head = ManifestHead {
            lingot: env!("CARGO_PKG_VERSION").into(),
            step: self.step,
            tokens: self.tokens,
            seconds: self.seconds(),
            money: self.money(),
            seed: self.run.seed,
            model: self.run.model.clone(),
            run: resolved.toml.clone(),
            merged: Vec::new(),
        };
        let bundle = &self.model.parameters;
        let weights = read_all("", &bundle.specs, &bundle.tensors)?;
        let mut moments = self.optimizer.tensors()?;
        moments.extend(self.sync_state.iter().cloned());
        let state: Vec<Tensor> = self
            .model
            .buffers()?
            .into_iter()
            .zip(buffers(&self.run.model))
            .map(|((name, values), spec)| (name, spec.shape, values))
            .collect();
        let (folder, keep) = (self.saver.folder.clone(), self.run.checkpoint.keep);
        self.saver.running = Some(std::thread::spawn(move || {
            let path = checkpoint::save(&folder, head, &named(&weights), &named(&moments), &named(&state))?;
            checkpoints::prune(&folder, keep)?;
            Ok(path)
        }));
        self.saved_step = Some(self.step);
        Ok(self.saver.folder.join(checkpoint::folder_name(self.step)))
    }

    /// Takes everything from a checkpoint, and the last held-out loss from the log.
    pub(crate) fn restore(&mut self, path: &Path, history: &[Event]) -> Result<()> {
        let Loaded { manifest, weights, moments, buffers } = checkpoint::load(path)?;
        let head = manifest.head;
        manifest_file::check_model(path, &head.model, &self.run.model)?;
        if head.seed != self.run.seed {
            return Err(Problem::new(
                format!(
                    "{} was trained with seed {}, the run has seed {}",
                    path.display(),
                    head.seed,
                    self.run.seed
                ),
                "restore the seed, or give the run another folder",
            ));
        }
        overwrite(&mut self.model, path, &weights, &buffers)?;
        self.optimizer.restore(path, &moments)?;
        self.sync_state = moments.into_iter().filter(|(name, _, _)| name.starts_with("sync/")).collect();
        (self.step, self.tokens, self.clock.before_s) = (head.step, head.tokens, head.seconds);
        self.saved_step = Some(self.step);
        (self.held_out, self.evaluated_step) = log::last_held_out(history, self.step).unzip();
        checkpoints::set_aside_newer(&self.saver.folder, self.step)
    }
}

/// Puts a checkpoint's weights and routers' state in place.
pub(crate) fn overwrite(model: &mut Model, path: &Path, weights: &[Tensor], state: &[Tensor]) -> Result<()> {
    write_all(path, "", &model.parameters.specs, &model.parameters.tensors, weights)?;
    let mut values = Vec::new();
    for buffer in buffers(&model.spec) {
        values.push(find(path, state, &buffer.name, &buffer.shape)?.to_vec());
    }
    Ok(model.set_buffers(&values)?)
}

/// Reads tensors off the device, `prefix` before their names.
pub(crate) fn read_all(
    prefix: &str,
    specs: &[TensorSpec],
    tensors: &[lingot_device::Tensor],
) -> Result<Vec<Tensor>> {
    let read = |(spec, tensor): (&TensorSpec, &lingot_device::Tensor)| {
        Ok((format!("{prefix}{}", spec.name), spec.shape.clone(), tensor.to_floats()?))
    };
    specs.iter().zip(tensors).map(read).collect()
}

/// The other way: every tensor must be there, in its shape.
pub(crate) fn write_all(
    path: &Path,
    prefix: &str,
    specs: &[TensorSpec],
    tensors: &[lingot_device::Tensor],
    from: &[Tensor],
) -> Result<()> {
    for (spec, tensor) in specs.iter().zip(tensors) {
        tensor.write_floats(find(path, from, &format!("{prefix}{}", spec.name), &spec.shape)?)?;
    }
    Ok(())
}

fn find<'a>(path: &Path, tensors: &'a [Tensor], name: &str, shape: &[usize]) -> Result<&'a [f32]> {
    let hint = "the checkpoint is of another model";
    let found = tensors.iter().find(|(found, _, _)| found == name);
    let Some((_, found, values)) = found else {
        return Err(Problem::new(format!("{} lacks the tensor `{name}`", path.display()), hint));
    };
    if found != shape {
        let problem = format!("{}: `{name}` is {found:?}, the model's is {shape:?}", path.display());
        return Err(Problem::new(problem, hint));
    }
    Ok(values)
}

fn named(tensors: &[Tensor]) -> Vec<Named<'_>> {
    tensors.iter().map(|(name, shape, values)| Named { name, shape, values }).collect()
}
