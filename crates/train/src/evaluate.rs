//! Held-out loss, and how a trained model is opened again.

use crate::checkpoint::{self, newest};
use crate::data::rows;
use lingot_data::Dataset;
use lingot_device::{Device, Kind};
use lingot_model::{Inputs, Model};
use lingot_spec::manifest::Manifest;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::{BatchSpec, EvaluationSpec};
use std::path::Path;

/// A held-out score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Mean cross-entropy of a token, in nats.
    pub loss: f64,
    /// Tokens that were scored.
    pub tokens: u64,
    /// Over the UTF-8 bytes of the text, by the tokens per byte of all held-out text.
    pub bits_per_byte: Option<f64>,
}

/// Returns the loss on the first `sequences` held-out sequences, the same ones each time.
pub fn held_out(
    model: &Model,
    dataset: &Dataset,
    spec: &EvaluationSpec,
    batch: &BatchSpec,
) -> Result<HeldOut> {
    let sequences = dataset.validation_sequences().min(u64::from(spec.sequences));
    let (mut sum, mut tokens, mut first) = (0.0, 0_u64, 0);
    while first < sequences {
        let count = (sequences - first).min(u64::from(batch.micro)) as u32;
        let micro = dataset.validation(first, count)?;
        let inputs = Inputs::new(&model.device, rows(&micro), false)?;
        sum += model.evaluate(&inputs)?.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        tokens += rows(&micro).targets();
        first += u64::from(count);
    }
    if tokens == 0 {
        return Err(Problem::new(
            "there is no held-out text to evaluate on",
            "raise data.validation, or add documents to the corpora",
        ));
    }
    let loss = sum / tokens as f64;
    let bytes = dataset.validation_bytes();
    let per_byte = dataset.validation_tokens() as f64 / bytes as f64;
    let bits_per_byte = (bytes > 0).then(|| loss / std::f64::consts::LN_2 * per_byte);
    Ok(HeldOut { loss, tokens, bits_per_byte })
}

/// Loads the model of a run's newest checkpoint, or of the checkpoint that `path` names.
pub fn load_model(path: &Path, device: &Device) -> Result<(Model, Manifest)> {
    let path = newest::resolve(path)?;
    let loaded = checkpoint::load_weights(&path)?;
    let mut model = Model::blank(&loaded.manifest.head.model, device, Kind::F32)?;
    checkpoint::overwrite(&mut model, &path, &loaded)?;
    Ok((model, loaded.manifest))
}
