//! Writes what `scripts/reference/train.py` needs to train the PyTorch reference on exactly the batches of a
//! run.
//!
//! ```text
//! cargo run --release -p lingot-train --example export_batches -- RUN.toml FOLDER [--set key=value]...
//! ```
//!
//! FOLDER receives `spec.json`, `initial.safetensors`, `hyperparameters.json`, `batch-00000.safetensors`, ...
//! (one for each step) and `validation-00000.safetensors`, ... (what the run's evaluation scores). The text
//! is prepared as the run itself does it, in the run's folder.

use lingot_data::{Batch, Dataset};
use lingot_device::cpu::Cpu;
use lingot_device::{Device, Kind};
use lingot_formats::tensor_file::{self, Named};
use lingot_model::Model;
use lingot_spec::RunSpec;
use lingot_spec::problem::{Problem, Result};
use lingot_train::guard::stop::{Progress, why_stop};
use lingot_train::{config, data, schedule};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// No gradient is as long, so clipping at it is none.
const NO_CLIP: f64 = 1e30;

fn main() -> ExitCode {
    match export() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn export() -> Result<()> {
    let (path, folder, overrides) = arguments()?;
    let run = config::load(&path, &overrides)?.run;
    fs::create_dir_all(&folder).map_err(|error| Problem::io("create", &folder, &error))?;
    let dataset = data::prepare_data(&run, &|_| ())?;
    write_json(&folder.join("spec.json"), &json!(run.model))?;
    write_model(&run, &folder.join("initial.safetensors"))?;
    let rates = write_batches(&run, &dataset, &folder)?;
    let validation = write_validation(&run, &dataset, &folder)?;
    eprintln!("{}: {} steps, {} held-out files", folder.display(), rates.len(), validation.len());
    let optimizer = &run.optimizer;
    let hyperparameters = json!({
        "sequence": run.data.sequence,
        "micro_sequences": run.batch.micro,
        "rates": rates,
        "beta1": optimizer.beta1,
        "beta2": optimizer.beta2,
        "epsilon": optimizer.epsilon,
        "decay": optimizer.decay,
        "clip": if optimizer.clip > 0.0 { optimizer.clip } else { NO_CLIP },
        "bias_rate": run.model.router.bias_rate,
        "validation": validation,
    });
    // Last, so that a folder with this file is complete.
    write_json(&folder.join("hyperparameters.json"), &hyperparameters)
}

fn arguments() -> Result<(PathBuf, PathBuf, Vec<String>)> {
    let usage =
        |problem: String| Problem::new(problem, "export_batches RUN.toml FOLDER [--set key=value]...");
    let (mut places, mut overrides) = (Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--set" {
            overrides.push(arguments.next().ok_or_else(|| usage("--set without key=value".into()))?);
        } else {
            places.push(PathBuf::from(argument));
        }
    }
    let count = places.len();
    let [path, folder] = <[PathBuf; 2]>::try_from(places)
        .map_err(|_| usage(format!("2 paths are needed, {count} are given")))?;
    Ok((path, folder, overrides))
}

/// The weights and buffers that the run begins with.
fn write_model(run: &RunSpec, path: &Path) -> Result<()> {
    let model = Model::new(&run.model, &Device::new(Cpu::new(1)), Kind::F32, run.seed)?;
    let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (spec, tensor) in model.parameters.specs.iter().zip(&model.parameters.tensors) {
        all.push((spec.name.clone(), spec.shape.clone(), tensor.to_floats()?));
    }
    for (name, values) in model.buffers()? {
        all.push((name, vec![values.len()], values));
    }
    let named: Vec<Named<'_>> =
        all.iter().map(|(name, shape, values)| Named { name, shape, values }).collect();
    tensor_file::write(path, &named).map(|_| ())
}

/// One file for each step until the run would stop; gives the learning rates of these steps.
fn write_batches(run: &RunSpec, dataset: &Dataset, folder: &Path) -> Result<Vec<f64>> {
    let mut rates = Vec::new();
    let mut tokens = 0;
    loop {
        let step = rates.len() as u64;
        let progress = Progress { step, tokens, hours: 0.0, money: None, loss: None };
        if why_stop(&run.stop, &progress).is_some() {
            return Ok(rates);
        }
        let sequences = schedule::sequences_at(&run.batch, step);
        let batch = dataset.training(schedule::first_sample(&run.batch, step), sequences)?;
        tokens += batch.tokens.len() as u64;
        write_batch(&batch, &folder.join(format!("batch-{step:05}.safetensors")))?;
        rates.push(schedule::rate(&run.schedule, run.optimizer.rate, step, run.stop.steps));
    }
}

/// The sequences that the run's evaluation scores, in files of a micro-batch; gives their names.
fn write_validation(run: &RunSpec, dataset: &Dataset, folder: &Path) -> Result<Vec<String>> {
    let sequences = dataset.validation_sequences().min(u64::from(run.evaluation.sequences));
    let mut names = Vec::new();
    for first in (0..sequences).step_by(run.batch.micro as usize) {
        let count = (sequences - first).min(u64::from(run.batch.micro)) as u32;
        let name = format!("validation-{:05}.safetensors", names.len());
        write_batch(&dataset.validation(first, count)?, &folder.join(&name))?;
        names.push(name);
    }
    Ok(names)
}

fn write_batch(batch: &Batch, path: &Path) -> Result<()> {
    let columns = [
        ("tokens", &batch.tokens),
        ("targets", &batch.targets),
        ("starts", &batch.starts),
        ("positions", &batch.positions),
    ];
    let failed = |error: safetensors::SafeTensorError| {
        Problem::new(format!("cannot write {}: {error}", path.display()), "check the free space of the disk")
    };
    let mut views = Vec::new();
    for (name, values) in columns {
        let bytes = bytemuck::cast_slice(values);
        views.push((name, TensorView::new(Dtype::I32, vec![values.len()], bytes).map_err(failed)?));
    }
    safetensors::serialize_to_file(views, None, path).map_err(failed)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    fs::write(path, format!("{value:#}\n")).map_err(|error| Problem::io("write", path, &error))
}
