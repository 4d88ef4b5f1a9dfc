//! Writes what a checkpoint computes for a fixed prompt, for others to compare with: tokens, logits,
//! greedy text.
//!
//! `cargo run --release -p lingot-train --example expected_text -- RUN OUT.json`
#![allow(clippy::unwrap_used)]

use lingot_device::open;
use lingot_model::Cache;
use lingot_spec::run::DeviceSpec;
use lingot_train::evaluate::load_model;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, out] = arguments.as_slice() else { panic!("usage: expected_text RUN OUT.json") };
    let device = open::open(&DeviceSpec::default()).unwrap();
    let (model, _) = load_model(Path::new(checkpoint), &device).unwrap();
    let prompt: Vec<i32> = (0..24).map(|place| (place * 37 + 11) % 1000).collect();
    let mut cache = Cache::new(&model, 64).unwrap();
    let mut rows = vec![model.read(&mut cache, &prompt).unwrap()];
    let mut continuation: Vec<i32> = Vec::new();
    for _ in 0..12 {
        let last = rows.last().unwrap();
        let best = (0..last.len()).reduce(|best, next| if last[next] > last[best] { next } else { best });
        continuation.push(best.unwrap() as i32);
        rows.push(model.read(&mut cache, &continuation[continuation.len() - 1..]).unwrap());
    }
    let expected = serde_json::json!({
        "tokens": prompt,
        "last_logits": [rows[0]],
        "continuation": continuation,
    });
    std::fs::write(out, expected.to_string()).unwrap();
}
