//! What the file leaves out and no constant suits: learning rate, batch and length of the run, proposed from
//! the model's compute.
//!
//! A proposal is written into the resolved text of the run, with a note that says why. It is made once: a run
//! that goes on takes what its checkpoint says, whatever the proposal would be by now.

use lingot_spec::ModelSpec;
use lingot_spec::run::{BatchSpec, DataSpec, StopSpec, Strategy};
use lingot_spec::scaling;
use toml::{Table, Value};

/// The keys that may be proposed, by section.
const KEYS: [[&str; 2]; 3] = [["stop", "steps"], ["batch", "sequences"], ["optimizer", "rate"]];
/// How the note of a proposal begins.
const PROPOSED: &str = "proposed ";

/// Whether the file leaves out a key that may be proposed.
pub(super) fn is_incomplete(table: &Table) -> bool {
    KEYS.iter().any(|[section, key]| !has(table, section, key))
}

fn has(table: &Table, section: &str, key: &str) -> bool {
    table.get(section).is_some_and(|section| section.get(key).is_some())
}

/// Takes the keys that are left out, and the notes about them, from the resolved text of a run that goes on.
pub(super) fn keep(table: &mut Table, before: &Table) {
    for [section, key] in KEYS {
        let then = before.get(section).and_then(|section| section.get(key));
        if let Some(value) = then.filter(|_| !has(table, section, key)) {
            put(table, section, key, value.clone());
            let is_about = |note: &&Value| {
                note.as_str().is_some_and(|note| note.starts_with(&format!("{PROPOSED}{section}.{key} ")))
            };
            let notes = before.get("notes").and_then(Value::as_array).into_iter().flatten();
            let notes: Vec<String> =
                notes.filter(is_about).filter_map(|note| note.as_str().map(str::to_owned)).collect();
            notes.into_iter().for_each(|note| add_note(table, note));
        }
    }
}

/// Proposes the keys that are left out. Does nothing where the model or the text to train on is wrong, which
/// is said later.
pub(super) fn propose(table: &mut Table) {
    let Some(facts) = Facts::of(table) else { return };
    let is_free = |[section, key]: [&str; 2]| !has(table, section, key);
    let [frees_steps, frees_sequences, frees_rate] = KEYS.map(is_free);
    let tokens = facts.tokens.map_or(scaling::tokens(&facts.model) as f64, |tokens| tokens as f64);
    let sequences = if !frees_sequences {
        facts.sequences
    } else if frees_steps {
        facts.whole(scaling::batch_tokens(facts.flops_per_token * tokens))
    } else {
        facts.whole(scaling::batch_tokens_of_steps(facts.flops_per_token, facts.steps as f64))
    };
    let batch = f64::from(sequences) * f64::from(facts.sequence);
    let steps = if frees_steps { (tokens / batch).ceil().max(1.0) as u64 } else { facts.steps };
    let trained = match facts.tokens {
        Some(tokens) => (steps as f64 * batch).min(tokens as f64),
        None => steps as f64 * batch,
    };
    let flops = facts.flops_per_token * trained;
    if frees_steps {
        let why = match facts.tokens {
            Some(tokens) => format!("stop.tokens is {tokens}"),
            None => format!(
                "the model has {:.2e} activated parameters, and {} tokens for each are the optimum of dense \
                 models (arXiv 2203.15556)",
                facts.model.activated_parameters() as f64,
                scaling::TOKENS_PER_PARAMETER
            ),
        };
        offer(table, "stop", "steps", Value::Integer(steps as i64), &why);
    }
    let fit = format!("that is Ling's fit for {flops:.1e} FLOPs of training (arXiv 2503.05139)");
    if frees_sequences {
        offer(table, "batch", "sequences", Value::Integer(i64::from(sequences)), &fit);
    }
    if frees_rate {
        offer(table, "optimizer", "rate", Value::Float(rounded(scaling::rate(flops))), &fit);
    }
}

/// What the proposals follow from.
struct Facts {
    model: ModelSpec,
    flops_per_token: f64,
    /// Tokens of a sequence.
    sequence: u32,
    /// Sequences of a step, where the file says it.
    sequences: u32,
    /// The steps of the run, where the file says it.
    steps: u64,
    /// The tokens of the run, where the file says it.
    tokens: Option<u64>,
    /// Sequences of a step are a multiple of this, and at least `from`.
    multiple: u32,
    from: u32,
}

impl Facts {
    fn of(table: &Table) -> Option<Facts> {
        let model: ModelSpec = part(table, "model")?;
        let (data, stop): (DataSpec, StopSpec) = (part(table, "data")?, part(table, "stop")?);
        let batch: BatchSpec = part(table, "batch")?;
        model.check().ok()?;
        Some(Facts {
            flops_per_token: scaling::body_flops_per_token(&model, data.sequence),
            sequence: data.sequence.max(1),
            sequences: batch.sequences,
            steps: stop.steps,
            tokens: stop.tokens,
            multiple: batch.micro.max(1).saturating_mul(workers(table)),
            from: batch.from,
            model,
        })
    }

    /// The number of sequences nearest to `tokens`, in whole micro-batches of each worker.
    fn whole(&self, tokens: f64) -> u32 {
        let multiple = f64::from(self.multiple);
        let times = (tokens / f64::from(self.sequence) / multiple).round().max(1.0);
        let sequences = (times * multiple).min(f64::from(1_u32 << 24)) as u32;
        sequences.max(self.from).max(self.multiple)
    }
}

fn part<T: serde::de::DeserializeOwned>(table: &Table, section: &str) -> Option<T> {
    table.get(section)?.clone().try_into().ok()
}

/// The workers that share a step equally.
fn workers(table: &Table) -> u32 {
    let sync = table.get("sync");
    let count = |list: Option<&Value>| list.and_then(Value::as_array).map_or(0, Vec::len) as u32;
    let emulated = count(sync.and_then(|sync| sync.get("virtual_speeds")));
    let strategy = sync.and_then(|sync| sync.get("strategy")).cloned();
    let strategy = strategy.and_then(|strategy| strategy.try_into::<Strategy>().ok());
    let is_apart = strategy.is_some_and(|strategy| strategy != Strategy::EveryStep);
    let real = if is_apart { count(table.get("devices")) } else { 0 };
    emulated.max(real).max(1)
}

fn offer(table: &mut Table, section: &str, key: &str, value: Value, why: &str) {
    add_note(table, format!("{PROPOSED}{section}.{key} = {value}, because {why}"));
    put(table, section, key, value);
}

fn put(table: &mut Table, section: &str, key: &str, value: Value) {
    let section = table.entry(section).or_insert(Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(key.into(), value);
    }
}

fn add_note(table: &mut Table, note: String) {
    let notes = table.entry("notes").or_insert(Value::Array(Vec::new()));
    if let Value::Array(notes) = notes {
        notes.push(Value::String(note));
    }
}

/// Two significant digits.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use crate::config::{Resolved, load, parse};
    use std::path::Path;

    fn loaded(rest: &str) -> Resolved {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run.toml");
        let folder = home.path().join("run");
        let text = format!(
            "folder = {folder:?}\n[model]\npreset = \"toy\"\n[data]\ncorpora = [{{ path = \"a\" }}]\n{rest}"
        );
        std::fs::write(&path, text).unwrap();
        load(&path, &[]).unwrap()
    }

    fn proposed(resolved: &Resolved) -> Vec<&str> {
        let keys = resolved.run.notes.iter().filter_map(|note| note.strip_prefix("proposed "));
        keys.filter_map(|note| note.split(' ').next()).collect()
    }

    #[test]
    fn what_is_left_out_is_proposed_once_with_a_reason() {
        let resolved = loaded("");
        assert_eq!(proposed(&resolved), ["stop.steps", "batch.sequences", "optimizer.rate"]);
        assert!(resolved.run.notes.iter().all(|note| note.contains(", because ") && note.contains("arXiv")));
        let run = &resolved.run;
        let tokens = run.stop.steps * u64::from(run.batch.sequences * run.data.sequence);
        let wanted = 20 * run.model.activated_parameters();
        assert!(tokens >= wanted && tokens < wanted + u64::from(run.batch.sequences * run.data.sequence));
        assert!(run.batch.sequences.is_multiple_of(run.batch.micro));
        assert_eq!(run.optimizer.rate, 2.2e-3);
        // The resolved text is the same run, and nothing is proposed for it again.
        assert_eq!(&parse(&resolved.toml, Path::new("run.toml"), &[]).unwrap().run, run);
    }

    #[test]
    fn what_is_written_down_stays() {
        let all = "[batch]\nsequences = 24\n[optimizer]\nrate = 0.5\n[stop]\nsteps = 7\n";
        let resolved = loaded(all);
        assert!(resolved.run.notes.is_empty());
        assert_eq!((resolved.run.batch.sequences, resolved.run.optimizer.rate), (24, 0.5));
        let resolved = loaded("[batch]\nsequences = 24\n[stop]\ntokens = 1000000\n");
        assert_eq!(proposed(&resolved), ["stop.steps", "optimizer.rate"]);
        assert_eq!(resolved.run.stop.steps, 1_000_000_u64.div_ceil(24 * 256));
    }

    #[test]
    fn a_batch_is_made_of_whole_micro_batches_of_every_worker() {
        for (rest, multiple) in [
            ("[batch]\nmicro = 3\n[stop]\nsteps = 50\n", 3),
            ("[batch]\nmicro = 5\nfrom = 400\nramp_steps = 9\n[stop]\nsteps = 50\n", 5),
            (
                "[batch]\nmicro = 2\n[stop]\nsteps = 50\n[sync]\nstrategy = \"edit\"\n\
                 virtual_speeds = [1, 1, 1, 0.5, 1, 1, 1]\n",
                14,
            ),
        ] {
            let run = loaded(rest).run;
            assert!(run.batch.sequences.is_multiple_of(multiple), "{rest}: {}", run.batch.sequences);
            assert!(run.batch.sequences >= run.batch.from);
        }
    }
}
