//! The model of a benchmark as the command line names it: one of the benchmark's own, a preset or a RUN.toml.

use crate::failure::{Failure, Result};
use lingot_measure::Case;
use lingot_spec::presets::{NAMES, preset};
use lingot_spec::run::{Precision, Recompute};
use lingot_train::config;
use std::path::Path;

/// Sequences of a micro-batch, and tokens of each, where a preset is measured.
const PRESET_BATCH: [usize; 2] = [8, 256];

/// The model and the batch of a benchmark.
#[derive(clap::Args)]
pub struct CaseArgs {
    /// Train T (1.9 M parameters), S (18 M), M (230 M), L (one layer of Ling-mini-2.0; needs 16 GB), G (907
    /// M), Q (2.6 B), a preset or a RUN.toml
    #[arg(long, value_name = "MODEL", default_value = "S")]
    pub model: String,
    /// Divide each step into N micro-batches [default: 1, or as in RUN.toml]
    #[arg(long, value_name = "N", value_parser = crate::counts())]
    pub micros: Option<u64>,
    /// Put N sequences into a micro-batch [default: the model's own, or as in RUN.toml]
    #[arg(long, value_name = "N", value_parser = crate::counts())]
    pub sequences: Option<u64>,
    /// Make sequences of TOKENS tokens [default: the model's own, or as in RUN.toml]
    #[arg(long, value_name = "TOKENS", value_parser = crate::counts())]
    pub sequence: Option<u64>,
    /// Hold activations and working weights in f32 or bf16 [default: f32, or as in RUN.toml]
    #[arg(long, value_name = "KIND", value_parser = crate::precisions())]
    pub precision: Option<Precision>,
}

/// A case, and the precision that it is measured in.
pub struct Named {
    pub case: Case,
    pub precision: Precision,
}

impl CaseArgs {
    /// Finds the model, and lays the batch that is asked for over its own.
    ///
    /// Errors if nothing has that name, or if RUN.toml is refused.
    pub fn find(&self) -> Result<Named> {
        let Named { mut case, precision } = known(&self.model)?;
        let given = |own: &mut usize, given: Option<u64>| *own = given.map_or(*own, |count| count as usize);
        given(&mut case.micros, self.micros);
        given(&mut case.sequences, self.sequences);
        given(&mut case.sequence, self.sequence);
        Ok(Named { case, precision: self.precision.unwrap_or(precision) })
    }
}

fn known(name: &str) -> Result<Named> {
    if let Some(case) = Case::named(name) {
        return Ok(Named { case, precision: Precision::F32 });
    }
    if let Some(model) = preset(name) {
        let [sequences, sequence] = PRESET_BATCH;
        let recompute = Recompute::Nothing;
        let case = Case { name: name.into(), model, sequences, sequence, micros: 1, recompute };
        return Ok(Named { case, precision: Precision::F32 });
    }
    let path = Path::new(name);
    if !name.ends_with(".toml") && !path.exists() {
        return Err(Failure::input(
            format!("unknown benchmark model `{name}`"),
            format!("choose {}, a RUN.toml, or a preset: {}", Case::NAMES.join(", "), NAMES.join(", ")),
        ));
    }
    of_run(path)
}

fn of_run(path: &Path) -> Result<Named> {
    let run = config::load(path, &[]).map_err(Failure::of_input)?.run;
    let recompute = run.device.recompute.policies().first().copied().unwrap_or(Recompute::Nothing);
    let [sequences, micro] = [run.batch.sequences, run.batch.micro.max(1)].map(|count| count as usize);
    let case = Case {
        name: run.name,
        model: run.model,
        sequences: micro,
        sequence: run.data.sequence as usize,
        micros: sequences.div_ceil(micro),
        recompute,
    };
    Ok(Named { case, precision: run.device.precision })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(model: &str) -> CaseArgs {
        CaseArgs { model: model.into(), micros: None, sequences: None, sequence: None, precision: None }
    }

    #[test]
    fn a_batch_that_is_asked_for_replaces_the_models_own() {
        let Named { case, precision } = args("g").find().ok().unwrap();
        assert_eq!((case.sequences, case.sequence, case.micros), (16, 1024, 1));
        assert_eq!(precision, Precision::F32);
        let other =
            CaseArgs { micros: Some(4), sequence: Some(64), precision: Some(Precision::Bf16), ..args("toy") };
        let Named { case, precision } = other.find().ok().unwrap();
        assert_eq!((case.sequences, case.sequence, case.micros), (8, 64, 4));
        assert_eq!(precision, Precision::Bf16);
    }
}
