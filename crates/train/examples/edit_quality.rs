//! Trains one small model on real text by every strategy and prints a JSON line per run: held-out curve,
//! virtual time, bytes. `scripts/plot_fleet.py` draws the lines.
//!
//! ```text
//! cargo run --release -p lingot-train --example edit_quality -- TEXT FOLDER CASE...
//! ```
//!
//! A case is `STRATEGY:WORKERS[:OPTION...]`; options are `seed=N`, `straggler=F` (the last worker computes at
//! F of the others' speed), `corrupt` (from a quarter of the run on the last worker reads random tokens),
//! `plain` (no penalty: changes are averaged), and any `key=value` of RUN.toml. A case whose folder is there
//! already goes on from it.

use lingot_data::Batch;
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_model::random::Stream;
use lingot_spec::event::Event;
use lingot_spec::problem::Result;
use lingot_train::{config, data, step};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::AtomicBool;

const RUN: &str = r#"
[model]
preset = "toy"
vocabulary = 1024
width = 64
layers = 2
heads = 2
kv_heads = 1
dense_width = 256
experts = 8
choices = 2
expert_width = 64
mtp_layers = 0
[data]
sequence = 64
validation = 0.05
[batch]
sequences = 16
micro = 2
[optimizer]
rate = 3e-3
[schedule]
warmup_steps = 40
[stop]
steps = 1000
[evaluation]
every = 100
sequences = 400
[sync]
every = 8
period_s = 8.0
least_steps = 8
warmup_steps = 120
[sync.penalty]
newest = 0.1
warmup_meetings = 10
"#;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(text), Some(folder)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: edit_quality TEXT FOLDER CASE...");
        std::process::exit(2);
    };
    for case in arguments {
        match train(&text, &folder, &case) {
            Ok(line) => print(&line),
            Err(error) => {
                eprintln!("{case}: {error}");
                std::process::exit(1);
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of an example")]
fn print(line: &Value) {
    println!("{line}");
}

/// One run, as a JSON object.
fn train(text: &str, folder: &str, case: &str) -> Result<Value> {
    let mut parts = case.split(':');
    let strategy = parts.next().unwrap_or_default();
    let workers: usize = parts.next().and_then(|workers| workers.parse().ok()).unwrap_or(1);
    // A worker's step takes one second of virtual time, a straggler's longer: its share is 16 / workers
    // sequences.
    let share = 16.0 / workers as f64;
    let mut speeds = vec![share; workers];
    let mut overrides = vec![
        format!("data.cache={folder}/data"),
        format!("sync.strategy={strategy}"),
        "device.threads=1".into(),
    ];
    overrides.push(format!("data.corpora=[{{ path = \"{text}\" }}]"));
    let mut is_corrupt = false;
    for option in parts {
        match option.split_once('=') {
            Some(("straggler", factor)) => speeds[workers - 1] = share * factor.parse().unwrap_or(1.0),
            None if option == "corrupt" => is_corrupt = true,
            None if option == "plain" => overrides.push("sync.penalty.enabled=false".into()),
            _ => overrides.push(option.into()),
        }
    }
    overrides.push(format!("sync.virtual_speeds={speeds:?}"));
    let name = case.replace([':', '=', '.'], "-");
    overrides.push(format!("folder={folder}/{name}"));
    let resolved = config::parse(RUN, Path::new("edit_quality.toml"), &overrides)?;
    let run = &resolved.run;
    let dataset = data::prepare_data(run, &|_| ())?;
    let (from, vocabulary) = (run.stop.steps / 4, run.model.vocabulary);
    let tamper = move |worker: usize, step: u64, batch: &mut Batch| {
        if is_corrupt && worker == workers - 1 && step >= from {
            corrupt(batch, vocabulary, step);
        }
    };
    let mut sums = Sums { anomalies: vec![0; workers], ..Sums::default() };
    let mut listen = |event: &Event| sums.add(event, run.sync.warmup_steps);
    let device = Device::new(Cpu::new(1));
    let never = AtomicBool::new(false);
    let summary = step::train_emulated(&resolved, &dataset, &device, Box::new(tamper), &mut listen, &never)?;
    let efficiency = |tokens: u64, virtual_s: f64| {
        tokens as f64 / f64::from(run.data.sequence) / (speeds.iter().sum::<f64>() * virtual_s)
    };
    Ok(json!({
        "case": case, "strategy": strategy, "workers": workers, "seed": run.seed, "steps": summary.step,
        "tokens": summary.tokens, "loss": summary.held_out_loss, "curve": sums.curve,
        "virtual_s": sums.virtual_s, "waiting_s": sums.waiting_s,
        "efficiency": efficiency(sums.tokens, sums.virtual_s),
        "efficiency_apart": efficiency(sums.tokens - sums.tokens_in_step, sums.virtual_s - sums.in_step_s),
        "rounds": sums.rounds, "bytes": sums.bytes, "predicted_bytes": sums.predicted_bytes,
        "anomalies": sums.anomalies, "last_weights": sums.weights,
    }))
}

/// What adds up over the events of a run.
#[derive(Default)]
struct Sums {
    rounds: u64,
    tokens: u64,
    /// In the steps of the warm-up.
    tokens_in_step: u64,
    bytes: u64,
    predicted_bytes: u64,
    virtual_s: f64,
    /// In the steps of the warm-up.
    in_step_s: f64,
    waiting_s: f64,
    /// Tokens, held-out loss and virtual time of each evaluation.
    curve: Vec<Value>,
    /// Changes that did not count, by worker.
    anomalies: Vec<u64>,
    weights: Vec<f64>,
}

impl Sums {
    fn add(&mut self, event: &Event, warmup_steps: u64) {
        match event {
            Event::Exchange(exchange) => {
                let round_s = exchange.workers.iter().map(|worker| worker.busy_s).fold(0.0, f64::max);
                self.rounds += 1;
                self.bytes += exchange.bytes;
                self.predicted_bytes += exchange.predicted_bytes;
                self.virtual_s += round_s;
                self.in_step_s += if exchange.step <= warmup_steps { round_s } else { 0.0 };
                self.waiting_s += exchange.workers.iter().map(|worker| worker.waiting_s).sum::<f64>();
                self.weights = exchange.workers.iter().map(|worker| worker.weight).collect();
            }
            Event::Step(step) => {
                self.tokens = step.tokens;
                self.tokens_in_step =
                    if step.step <= warmup_steps { step.tokens } else { self.tokens_in_step };
            }
            Event::Evaluation(scored) => self.curve.push(json!([self.tokens, scored.loss, self.virtual_s])),
            Event::Anomaly(found) if found.kind == "outlier" => {
                for (worker, count) in self.anomalies.iter_mut().enumerate() {
                    *count += u64::from(found.reason.contains(&format!(" by worker {worker} ")));
                }
            }
            _ => {}
        }
    }
}

/// Random tokens and targets in place of text.
fn corrupt(batch: &mut Batch, vocabulary: u32, step: u64) {
    let mut stream = Stream::new(&[99, step]);
    let mut any = || (stream.uniform() * f64::from(vocabulary)) as i32;
    batch.tokens.iter_mut().for_each(|token| *token = any());
    batch.targets.iter_mut().filter(|target| **target >= 0).for_each(|target| *target = any());
}
