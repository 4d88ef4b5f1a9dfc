//! Trains one small model on real text by one processor, and again by each fleet that is asked for, with the
//! v1 and the v2 router; prints how far the losses of all steps are apart, as a line of JSON for each fleet
//! and router.
//!
//! ```text
//! cargo run --release -p lingot-train --example mixed_fleet -- TEXT FOLDER STEPS DEVICE,... [DEVICE,...]...
//! ```

use lingot_device::entry;
use lingot_spec::Result;
use lingot_spec::event::{Event, Piece};
use lingot_train::{config, data, step};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

const RUN: &str = r#"
[model]
vocabulary = 512
width = 64
layers = 2
heads = 2
kv_heads = 1
dense_width = 128
experts = 8
choices = 2
expert_width = 32
[data]
sequence = 64
[batch]
sequences = 8
micro = 1
[schedule]
warmup_steps = 20
[evaluation]
every = 0
sequences = 8
[checkpoint]
every = 0
[device]
threads = 1
"#;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [text, folder, steps, fleets @ ..] = arguments.as_slice() else {
        eprintln!("usage: mixed_fleet TEXT FOLDER STEPS DEVICE,...");
        std::process::exit(2);
    };
    for (router, preset) in [("v1", "toy-v1"), ("v2", "toy")] {
        if let Err(error) = compare(text, &Path::new(folder).join(router), steps, preset, fleets) {
            eprintln!("{router}: {error}");
            std::process::exit(1);
        }
    }
}

fn compare(text: &str, folder: &Path, steps: &str, preset: &str, fleets: &[String]) -> Result<()> {
    let (alone, _) = train(text, &folder.join("alone"), steps, preset, "cpu")?;
    for (index, fleet) in fleets.iter().enumerate() {
        let (losses, micros) = train(text, &folder.join(index.to_string()), steps, preset, fleet)?;
        let apart: Vec<f64> = alone.iter().zip(&losses).map(|(a, b)| (b / a - 1.0).abs()).collect();
        let line = json!({
            "devices": fleet,
            "model": preset,
            "steps": apart.len(),
            "first_loss": losses.first(),
            "last_loss": losses.last(),
            "mean_difference": apart.iter().sum::<f64>() / apart.len() as f64,
            "largest_difference": apart.iter().copied().fold(0.0, f64::max),
            "micros_by_device": micros.values().collect::<Vec<_>>(),
        });
        print(&line.to_string());
    }
    Ok(())
}

/// The losses of all steps, and how many micro-batches each device computed.
fn train(
    text: &str,
    folder: &Path,
    steps: &str,
    preset: &str,
    fleet: &str,
) -> Result<(Vec<f64>, BTreeMap<usize, usize>)> {
    // Begun anew each time.
    let _ = std::fs::remove_dir_all(folder);
    let overrides = [
        format!("model.preset={preset}"),
        format!("folder={:?}", folder.display().to_string()),
        format!("data.corpora=[{{ path = {text:?} }}]"),
        format!("devices={:?}", entry::split(fleet)),
        format!("stop.steps={steps}"),
    ];
    let resolved = config::parse(RUN, Path::new("mixed.toml"), &overrides)?;
    let open = entry::opener(&resolved.run, &entry::parse_all(&resolved.run.devices)?);
    let dataset = data::prepare_data(&resolved.run, &|_| ())?;
    let (mut losses, mut micros) = (Vec::new(), BTreeMap::new());
    let mut listen = |event: &Event| match event {
        Event::Step(step) => losses.push(step.loss),
        Event::Exchange(exchange) => {
            exchange
                .pieces
                .iter()
                .for_each(|Piece { worker, micros: more }| *micros.entry(*worker).or_default() += more);
        }
        _ => {}
    };
    step::train_fleet(&resolved, &dataset, open, &mut listen, &AtomicBool::new(false))?;
    Ok((losses, micros))
}

#[expect(clippy::print_stdout, reason = "the result of an example")]
fn print(line: &str) {
    println!("{line}");
}
