//! Trains one small model on real text by every strategy and prints a JSON line per run: held-out curve, virtual time,
//! bytes. `scripts/plot_fleet.py` draws the lines.
//!
//! ```text
//! cargo run --release -p lingot-train --example edit_quality -- TEXT FOLDER CASE...
//! ```
//!
//! A case is `STRATEGY:WORKERS[:OPTION...]`; options are `seed=N`, `straggler=F` (the last worker computes at F of the
//! others' speed), `corrupt` (from a quarter of the run on the last worker reads random tokens), `plain` (no penalty:
//! changes are averaged), `norms` (write the norms of all changes to standard error), and any `key=value` of RUN.toml.

use lingot_data::Batch;
use lingot_device::Device;
use lingot_device::cpu::Cpu;
use lingot_model::random::Stream;
use lingot_spec::Result;
use lingot_train::local::{Local, Round};
use lingot_train::worker::{self, Worker};
use lingot_train::{config, evaluate};
use serde_json::{Value, json};
use std::path::Path;

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
    // A worker's step takes one second of virtual time, a straggler's longer: its share is 16 / workers sequences.
    let share = 16.0 / workers as f64;
    let mut speeds = vec![share; workers];
    let mut overrides = vec![
        format!("data.cache={folder}/data"),
        format!("sync.strategy={strategy}"),
        "device.threads=1".into(),
    ];
    overrides.push(format!("data.corpora=[{{ path = \"{text}\" }}]"));
    let (mut is_corrupt, mut shows_norms) = (false, false);
    for option in parts {
        match option.split_once('=') {
            Some(("straggler", factor)) => speeds[workers - 1] = share * factor.parse().unwrap_or(1.0),
            None if option == "corrupt" => is_corrupt = true,
            None if option == "norms" => shows_norms = true,
            None if option == "plain" => overrides.push("sync.penalty.enabled=false".into()),
            _ => overrides.push(option.into()),
        }
    }
    overrides.push(format!("sync.virtual_speeds={speeds:?}"));
    let name = case.replace([':', '=', '.'], "-");
    overrides.push(format!("folder={folder}/{name}"));
    let resolved = config::parse(RUN, Path::new("edit_quality.toml"), &overrides)?;
    let run = &resolved.run;
    let dataset = worker::prepare_data(run, &|_| ())?;
    let mut lead = Worker::open(run, &dataset, &Device::new(Cpu::new(1)), &[])?;
    let mut local = Local::open(&mut lead)?;

    let from = run.stop.steps / 4;
    let tamper = |rank: usize, step: u64, batch: &mut Batch| {
        if is_corrupt && rank == workers - 1 && step >= from {
            corrupt(batch, run.model.vocabulary, step);
        }
    };
    let (mut curve, mut due) = (Vec::new(), run.evaluation.every);
    let (mut sums, mut apart) = (Sums::default(), Sums::default());
    while lead.step < run.stop.steps {
        let round = local.advance(&mut lead, &tamper)?;
        sums.add(&round);
        if !round.norms.is_empty() {
            apart.add(&round);
        }
        if shows_norms && !round.norms.is_empty() {
            eprintln!("{}", json!({ "step": lead.step, "norms": round.norms }));
        }
        if lead.step >= due {
            let loss = evaluate::held_out(&lead.model, &dataset, &run.evaluation, &run.batch)?.loss;
            curve.push(json!([lead.tokens, loss, sums.virtual_s]));
            due = (lead.step / run.evaluation.every + 1) * run.evaluation.every;
        }
    }
    Ok(json!({
        "case": case, "strategy": strategy, "workers": workers, "seed": run.seed, "steps": lead.step,
        "tokens": lead.tokens, "loss": curve.last().map(|point| point[1].clone()), "curve": curve,
        "virtual_s": sums.virtual_s, "waiting_s": sums.waiting_s,
        "efficiency": sums.efficiency(&speeds), "efficiency_apart": apart.efficiency(&speeds),
        "rounds": sums.rounds, "bytes": sums.bytes, "predicted_bytes": sums.predicted_bytes,
        "anomalies": sums.anomalies, "last_weights": sums.weights,
    }))
}

#[derive(Default)]
struct Sums {
    rounds: u64,
    tokens: u64,
    bytes: u64,
    predicted_bytes: u64,
    virtual_s: f64,
    waiting_s: f64,
    /// By rank.
    anomalies: Vec<u64>,
    weights: Vec<f64>,
}

impl Sums {
    fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.tokens += round.batch.totals().tokens;
        self.bytes += round.bytes;
        self.predicted_bytes += round.predicted_bytes;
        self.virtual_s += round.busy_s.iter().copied().fold(0.0, f64::max);
        self.waiting_s += round.waiting_s.iter().sum::<f64>();
        self.anomalies.resize(round.busy_s.len(), 0);
        for (_, rank, _) in &round.anomalies {
            self.anomalies[*rank] += 1;
        }
        self.weights.clone_from(&round.weights);
    }

    /// Sequences of 64 tokens per virtual second, of those that the workers could read without ever waiting.
    fn efficiency(&self, speeds: &[f64]) -> f64 {
        self.tokens as f64 / 64.0 / (speeds.iter().sum::<f64>() * self.virtual_s)
    }
}

/// Random tokens and targets in place of text.
fn corrupt(batch: &mut Batch, vocabulary: u32, step: u64) {
    let mut stream = Stream::new(&[99, step]);
    let mut any = || (stream.uniform() * f64::from(vocabulary)) as i32;
    batch.tokens.iter_mut().for_each(|token| *token = any());
    batch.targets.iter_mut().filter(|target| **target >= 0).for_each(|target| *target = any());
}
