//! Prepares corpora and prints, as JSON, what was made and the first training sequences.
//!
//! `cargo run -p lingot-data --example prepare -- FOLDER VOCABULARY SEQUENCE CORPUS...`
//! With `TOKENIZER=path/to/tokenizer.json` in the environment that tokenizer is used.

use lingot_data::{Dataset, prepare};
use lingot_spec::Problem;
use lingot_spec::run::{CorpusSpec, DataSpec};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)]
fn run() -> Result<(), Problem> {
    let usage = || Problem::new("too few arguments", "prepare FOLDER VOCABULARY SEQUENCE CORPUS...");
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or_else(usage)?;
    let mut number = || arguments.next().and_then(|word| word.parse().ok()).ok_or_else(usage);
    let (vocabulary, sequence) = (number()?, number()?);
    let corpus =
        |path| CorpusSpec { path, weight: 1.0, field: "text".into(), split: None, special_tokens: false };
    let spec = DataSpec {
        corpora: arguments.map(corpus).collect(),
        tokenizer: std::env::var("TOKENIZER").ok(),
        validation: 0.05,
        sequence,
        cache: None,
    };
    let prepared = prepare(&spec, vocabulary, 1, Path::new(&folder), &|_| ())?;
    let data = Dataset::open(&spec, Path::new(&folder), 1)?;
    let batch = data.training(0, 4)?;
    let printed = serde_json::json!({
        "prepared": prepared,
        "validation_sequences": data.validation_sequences(),
        "tokens": batch.tokens,
        "targets": batch.targets,
    });
    println!("{printed}");
    Ok(())
}
