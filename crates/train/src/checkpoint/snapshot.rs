//! A snapshot: all that a checkpoint holds, off the devices; and the way back into a home.

use super::{Loaded, Tensor};
use crate::home::Home;
use lingot_model::{Bundle, Model};
use lingot_spec::ModelSpec;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::tensors::{TensorSpec, buffers, tensors};
use std::path::Path;

/// All tensors of a checkpoint, on the host.
pub(crate) struct Snapshot {
    pub(crate) weights: Vec<Tensor>,
    /// `first/<tensor>` and `second/<tensor>`; then what an engine needs between steps, as `sync/...`.
    pub(crate) moments: Vec<Tensor>,
    /// The routers' state.
    pub(crate) buffers: Vec<Tensor>,
}

/// A model and its moments as flat lists on the host, in the order of the model's tensors.
pub(crate) struct Flat<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) moments: [&'a [f32]; 2],
    /// The routers' state, by buffer.
    pub(crate) state: &'a [Vec<f32>],
}

impl Snapshot {
    /// Copies a home's numbers off its device. Errors if the device cannot be read, or an update failed
    /// half-way.
    pub(crate) fn of(home: &Home) -> Result<Snapshot> {
        if home.is_torn {
            return Err(Problem::new(
                "the weights were overwritten in part by an update that failed",
                "run the same command again: it goes on from the newest checkpoint",
            ));
        }
        let Home { model, optimizer, .. } = home;
        let mut moments = read_all("first/", &optimizer.first)?;
        moments.extend(read_all("second/", &optimizer.second)?);
        Ok(Snapshot {
            weights: read_all("", &model.parameters)?,
            moments,
            buffers: state(&model.spec, model.buffer_values()?),
        })
    }

    /// Cuts flat lists into the model's tensors.
    pub(crate) fn from_host(model: &ModelSpec, flat: &Flat<'_>) -> Snapshot {
        let specs = tensors(model);
        let mut moments = cut("first/", &specs, flat.moments[0]);
        moments.extend(cut("second/", &specs, flat.moments[1]));
        let buffers = state(model, flat.state.to_vec());
        Snapshot { weights: cut("", &specs, flat.weights), moments, buffers }
    }
}

/// Puts a checkpoint's weights, moments and routers' state into a home.
pub(crate) fn restore(home: &mut Home, path: &Path, loaded: &Loaded) -> Result<()> {
    overwrite(&mut home.model, path, loaded)?;
    let (first, second) = (&home.optimizer.first, &home.optimizer.second);
    write_all(path, "first/", first, &loaded.moments)?;
    write_all(path, "second/", second, &loaded.moments)
}

/// Puts a checkpoint's weights and routers' state into a model.
pub(crate) fn overwrite(model: &mut Model, path: &Path, loaded: &Loaded) -> Result<()> {
    write_all(path, "", &model.parameters, &loaded.weights)?;
    model.renew(0..model.parameters.flat.len())?;
    let mut values = Vec::new();
    for buffer in buffers(&model.spec) {
        values.push(find(path, &loaded.buffers, &buffer.name, &buffer.shape)?.to_vec());
    }
    Ok(model.set_buffers(&values)?)
}

/// Reads tensors off the device, `prefix` before their names.
fn read_all(prefix: &str, bundle: &Bundle) -> Result<Vec<Tensor>> {
    let read = |(spec, tensor): (&TensorSpec, &lingot_device::Tensor)| {
        Ok((format!("{prefix}{}", spec.name), spec.shape.clone(), tensor.to_floats()?))
    };
    bundle.specs.iter().zip(&bundle.tensors).map(read).collect()
}

/// The routers' state under the names of its buffers.
fn state(model: &ModelSpec, values: Vec<Vec<f32>>) -> Vec<Tensor> {
    let named = buffers(model).into_iter().zip(values);
    named.map(|(spec, values)| (spec.name, spec.shape, values)).collect()
}

/// The tensors of a flat list, `prefix` before their names.
fn cut(prefix: &str, specs: &[TensorSpec], flat: &[f32]) -> Vec<Tensor> {
    let mut rest = flat;
    let tensor = |spec: &TensorSpec| {
        let (values, after) = rest.split_at(spec.shape.iter().product());
        rest = after;
        (format!("{prefix}{}", spec.name), spec.shape.clone(), values.to_vec())
    };
    specs.iter().map(tensor).collect()
}

/// Writes tensors to the device. Every one must be among `from`, in its shape.
fn write_all(path: &Path, prefix: &str, bundle: &Bundle, from: &[Tensor]) -> Result<()> {
    for (spec, tensor) in bundle.specs.iter().zip(&bundle.tensors) {
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
