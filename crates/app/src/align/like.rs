//! The sizes of a run or of a published model, at which the ops of a device are checked.

use crate::failure::{Failure, Result};
use lingot_device::conformance::wide::Shapes;
use lingot_spec::presets;
use lingot_spec::run::Precision;
use lingot_train::config;
use std::path::Path;

/// Tokens of the one sequence that a preset is checked with.
const TOKENS: usize = 4096;

/// A model's sizes, and whose they are in words.
pub(super) struct Like {
    pub(super) name: String,
    pub(super) shapes: Shapes,
    /// That of the run; f32 for a preset.
    pub(super) precision: Precision,
}

/// Reads the sizes of the run that a file describes, or of a preset with one sequence of 4,096 tokens.
pub(super) fn read(like: &str) -> Result<Like> {
    if let Some(model) = presets::preset(like) {
        let name = format!("the preset {like} with one sequence of {TOKENS} tokens");
        return Ok(Like { name, shapes: Shapes::of(&model, TOKENS, TOKENS), precision: Precision::F32 });
    }
    let path = Path::new(like);
    if !path.exists() {
        let problem = format!("--like {like} is neither a file nor a preset");
        let presets = presets::NAMES.join(", ");
        return Err(Failure::input(problem, format!("give a RUN.toml, or one of {presets}")));
    }
    let file = if path.is_dir() { path.join("run.toml") } else { path.to_owned() };
    let run = config::load(&file, &[])?.run;
    let sequence = run.data.sequence as usize;
    let tokens = sequence * run.batch.micro as usize;
    let name = format!("{like} with micro-batches of {tokens} tokens");
    let precision = run.device.precision;
    Ok(Like { name, shapes: Shapes::of(&run.model, tokens, sequence), precision })
}
