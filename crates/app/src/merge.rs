//! `lingot merge`: averages checkpoints of one run, in place of lowering its learning rate.

use crate::checkpoint::find;
use crate::failure::Result;
use crate::output;
use clap::ValueEnum;
use lingot_formats::hugging_face::copy_tokenizer;
use lingot_formats::new_folder::NewFolder;
use lingot_spec::manifest::MergeSource;
use lingot_train::checkpoint::manifest;
use lingot_train::checkpoint::merge::{Decay, merge};
use serde::Serialize;
use std::path::PathBuf;

/// Average checkpoints of one run, in place of lowering the learning rate
///
/// The weighted mean stands for a decay of the rate over the merged steps (warmup-stable-merge).
/// `checkpoint.keep` in RUN.toml says how many checkpoints a run keeps.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot merge out/run/checkpoints/step-00000800 out/run/checkpoints/step-00001000 --out merged
  lingot merge out/run/checkpoints/step-* --decay inverse-sqrt --out merged"
)]
pub struct Args {
    /// The checkpoints, oldest first
    #[arg(value_name = "CHECKPOINT", required = true)]
    checkpoints: Vec<PathBuf>,
    /// Weigh the checkpoints like this decay of the learning rate
    #[arg(long, value_enum, default_value_t = Kind::Linear)]
    decay: Kind,
    /// Write the merged checkpoint into this new folder
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// The rate falls linearly to zero
    Linear,
    /// The rate falls as one over the square root of the step
    InverseSqrt,
    /// All checkpoints have the same weight
    Mean,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    folder: String,
    step: u64,
    merged: Vec<MergeSource>,
}

pub fn run(args: &Args) -> Result<()> {
    let decay = match args.decay {
        Kind::Linear => Decay::Linear,
        Kind::InverseSqrt => Decay::InverseSqrt,
        Kind::Mean => Decay::Mean,
    };
    let found = args.checkpoints.iter().map(|path| find(path)).collect::<Result<Vec<_>>>()?;
    let paths: Vec<PathBuf> = found.iter().map(|found| found.path.clone()).collect();
    let new = NewFolder::begin(&args.out)?;
    let folder = merge(&paths, decay, new.path())?;
    if let Some(tokenizer) = found.last().and_then(|newest| newest.tokenizer_folder()) {
        copy_tokenizer(&tokenizer, &folder)?;
    }
    let head = manifest::read(&folder)?.head;
    new.commit("manifest.json")?;
    let report = Report { folder: args.out.display().to_string(), step: head.step, merged: head.merged };
    if args.json {
        return output::json(&report);
    }
    let mut text = format!("merged {} checkpoints into {}\n", report.merged.len(), report.folder);
    for source in &report.merged {
        text += &format!("{:>9.4}  step {:>8}  {}\n", source.coefficient, source.step, source.path);
    }
    output::result(&text)
}
