//! RUN.toml: what resolves to what, and what each mistake is told.

use super::random::Random;
use lingot_spec::Problem;
use lingot_spec::presets::preset;
use lingot_spec::run::{Recompute, RecomputeSpec, Shape};
use lingot_train::config::{Resolved, load, parse};
use std::path::Path;

const SMALLEST: &str = "[model]\npreset = \"toy\"\n\n[data]\ncorpora = [{ path = \"plays.txt\" }]\n";

fn resolve(text: &str) -> Result<Resolved, Problem> {
    parse(text, Path::new("runs/plays.toml"), &[])
}

fn with_set(overrides: &[&str]) -> Result<Resolved, Problem> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    parse(SMALLEST, Path::new("runs/plays.toml"), &overrides)
}

/// The message of a run with extra lines, which must fail.
fn message(extra: &str) -> String {
    resolve(&format!("{SMALLEST}{extra}")).unwrap_err().to_string()
}

#[test]
fn the_smallest_run_gets_its_name_from_the_file_and_defaults_for_the_rest() {
    let run = resolve(SMALLEST).unwrap().run;
    assert_eq!((run.name.as_str(), run.folder.as_str(), run.seed), ("plays", "out/plays", 0));
    assert_eq!(run.model, preset("toy").unwrap());
    assert_eq!((run.batch.sequences, run.stop.steps, run.data.sequence), (16, 1000, 256));
    assert_eq!(run.data.corpora[0].weight, 1.0);
    assert!(run.price.is_none());
}

#[test]
fn keys_beside_a_preset_win_over_it_in_the_router_too() {
    let text = "[model]\npreset = \"toy\"\nlayers = 6\n\
        router = { scale = 1 }\n[data]\ncorpora = [{ path = \"a\" }]\n";
    let model = resolve(text).unwrap().run.model;
    let toy = preset("toy").unwrap();
    assert_eq!((model.layers, model.router.scale), (6, 1.0));
    assert_eq!((model.width, model.router.bias_rate), (toy.width, toy.router.bias_rate));
}

#[test]
fn the_resolved_text_resolves_to_itself() {
    let extra = "[price]\nper_hour = 1.5\ncurrency = \"EUR\"\n[device]\n\
        recompute = [\"block\", \"experts\", \"nothing\", \"nothing\"]\n";
    for text in [SMALLEST.to_owned(), format!("{SMALLEST}{extra}")] {
        let first = resolve(&text).unwrap();
        let again = parse(&first.toml, Path::new("elsewhere/other.toml"), &[]).unwrap();
        assert_eq!(first, again);
    }
}

#[test]
fn overrides_are_toml_values_or_bare_words() {
    let run = with_set(&[
        "stop.steps=5",
        "schedule.shape=inverse_sqrt",
        "model.router.scale = 1.5",
        "name=other",
        "data.corpora.0.weight=2",
        "device.recompute=[\"block\", \"block\", \"experts\", \"nothing\"]",
        "stop.steps=7",
    ])
    .unwrap()
    .run;
    assert_eq!((run.stop.steps, run.schedule.shape, run.model.router.scale), (7, Shape::InverseSqrt, 1.5));
    assert_eq!((run.folder.as_str(), run.data.corpora[0].weight), ("out/other", 2.0));
    let RecomputeSpec::Each(policies) = run.device.recompute else { panic!("one policy") };
    assert_eq!(policies[2], Recompute::Experts);
    assert_eq!(with_set(&["model.preset=small"]).unwrap().run.model, preset("small").unwrap());
}

#[test]
fn a_bad_override_names_itself() {
    for (text, words) in [
        ("stop.steps", "has no `=`"),
        ("stop..steps=3", "is not a key"),
        ("name.x=3", "expected a string"),
        ("data.corpora.4.path=x", "none of the 1 elements"),
        ("data.corpora.0.path.x=y", "plain value"),
        ("stop.stpes=3", "did you mean `steps`?"),
        ("stop.steps=many", "expected u64"),
        ("batch.micro=7", "batch.sequences (16) is not a multiple of batch.micro (7)"),
    ] {
        let message = with_set(&[text]).err().map_or("no error".into(), |error| error.to_string());
        assert!(message.contains(words), "{text}: {message}");
        assert!(message.contains("hint: "), "{message}");
    }
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_a_guess() {
    let message = message("[optimizer]\nrat = 0.1\n");
    assert!(message.contains("runs/plays.toml:7: unknown key `rat` in [optimizer]"), "{message}");
    assert!(message.contains("7 | rat = 0.1"), "{message}");
    assert!(message.ends_with("hint: did you mean `rate`?"), "{message}");
}

#[test]
fn every_misspelling_gets_the_right_guess() {
    for (text, line, guess) in [
        ("[modl]\n", 1, "model"),
        ("[model]\npreset = \"toi\"\n[data]\ncorpora = [{ path = \"a\" }]\n", 2, "toy"),
        ("[model]\npreset = \"toy\"\nwidht = 4\n[data]\ncorpora = [{ path = \"a\" }]\n", 3, "width"),
        ("[model]\npreset = \"toy\"\nrouter.grups = 4\n[data]\ncorpora = [{ path = \"a\" }]\n", 3, "groups"),
        ("[model]\npreste = \"toy\"\n[data]\ncorpora = [{ path = \"a\" }]\n", 2, "preset"),
        ("[model]\npreset = \"toy\"\n[data]\ncorpora = [{\n  path = \"a\",\n  wieght = 2 }]\n", 6, "weight"),
        (
            "[model]\npreset = \"toy\"\n[data]\ncorpora = [{ path = \"a\" }]\n\
             [schedule]\nshape = \"cosin\"\n",
            6,
            "cosine",
        ),
        (
            "[model]\npreset = \"toy\"\n[data]\ncorpora = [{ path = \"a\" }]\n\
             [device]\nrecompute = \"blok\"\n",
            6,
            "block",
        ),
        (
            "[model]\npreset = \"toy\"\n[data]\ncorpora = [{ path = \"a\" }]\n\
             [device]\nrecompute = [\"block\",\n\"expert\"]\n",
            7,
            "experts",
        ),
    ] {
        let message = resolve(text).unwrap_err().to_string();
        assert!(message.starts_with(&format!("runs/plays.toml:{line}: ")), "{message}");
        assert!(message.ends_with(&format!("hint: did you mean `{guess}`?")), "{message}");
    }
}

#[test]
fn numbers_that_do_not_fit_together_are_shown_both() {
    for (extra, words) in [
        ("[batch]\nsequences = 12\nmicro = 8\n", "batch.sequences (12) is not a multiple of batch.micro (8)"),
        ("[batch]\nfrom = 4\nramp_steps = 5\n", "batch.from (4) is not a multiple of batch.micro (8)"),
        ("[batch]\nfrom = 24\nramp_steps = 5\n", "batch.from (24) exceeds batch.sequences (16)"),
        ("[batch]\nfrom = 8\n", "batch.from is 8 but batch.ramp_steps is 0"),
        ("[batch]\nmicro = 0\n", "batch.micro is 0"),
        ("[optimizer]\nrate = -0.1\n", "optimizer.rate is -0.1"),
        ("[optimizer]\nrate = nan\n", "optimizer.rate is NaN"),
        ("[optimizer]\nbeta2 = 1\n", "optimizer.beta2 (1) is not from 0 to below 1"),
        ("[schedule]\nturn = 1.5\n", "schedule.turn (1.5) is not a share"),
        ("[schedule]\nshape = \"inverse_sqrt\"\nfloor = 0\n", "schedule.floor is 0"),
        ("[stop]\nsteps = 0\n", "stop.steps is 0"),
        ("[stop]\nmoney = 3.0\n", "stop.money is 3 but there is no price"),
        ("[price]\nper_hour = -1\ncurrency = \"EUR\"\n", "price.per_hour is -1"),
        ("[price]\nper_hour = 1\n", "`currency` is missing in [price]"),
        ("[device]\nrecompute = [\"block\"]\n", "device.recompute has 1 policies, model.layers is 4"),
        ("[stop]\nsteps = -4\n", "-4"),
        ("[stop]\nsteps = 99999999999999999999\n", "99999999999999999999 is too large"),
        ("[stop]\nsteps = \"ten\"\n", "expected u64"),
    ] {
        let message = message(extra);
        assert!(message.contains(words), "{message}");
        assert!(message.starts_with("runs/plays.toml:") && message.contains("hint: "), "{message}");
    }
}

#[test]
fn a_balance_loss_needs_micro_batches_of_whole_groups() {
    let model = "[model]\npreset = \"toy-v1\"\n\
        router = { balance_sequences = 3 }\n[data]\ncorpora = [{ path = \"a\" }]\n";
    let message = resolve(model).unwrap_err().to_string();
    assert!(
        message.contains("batch.micro (8) is not a multiple of model.router.balance_sequences (3)"),
        "{message}"
    );
    assert!(resolve(&model.replace("toy-v1", "toy")).is_ok(), "toy has no balance loss");
}

#[test]
fn a_model_that_cannot_be_built_is_shown_with_its_line() {
    let text = "[model]\npreset = \"toy\"\nheads = 3\n[data]\ncorpora = [{ path = \"a\" }]\n";
    let message = resolve(text).unwrap_err().to_string();
    assert!(message.starts_with("runs/plays.toml:3: model.heads (3) is not a multiple"), "{message}");
    let text = "[model]\npreset = \"toy\"\nchoices = 17\n[data]\ncorpora = [{ path = \"a\" }]\n";
    let message = resolve(text).unwrap_err().to_string();
    assert!(message.starts_with("runs/plays.toml:3: model.choices (17)"), "{message}");
}

#[test]
fn what_is_missing_is_named_with_what_to_write() {
    for (text, words) in [
        ("", "`model` is missing"),
        ("[data]\ncorpora = []\n", "`model` is missing"),
        ("[model]\npreset = \"toy\"\n", "`data` is missing"),
        ("[model]\npreset = \"toy\"\n[data]\n", "`corpora` is missing in [data]"),
        ("[model]\nwidth = 4\n[data]\ncorpora = [{ path = \"a\" }]\n", "is missing in [model]"),
        ("[model]\npreset = \"toy\"\n[data]\ncorpora = []\n", "data.corpora is empty"),
    ] {
        let message = resolve(text).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("hint: "), "{message}");
    }
}

#[test]
fn a_file_that_is_not_toml_not_text_or_not_there_is_told_apart() {
    let message = resolve("[model]\npreset = \"toy\"\nlayers 4\n").unwrap_err().to_string();
    assert!(message.starts_with("runs/plays.toml:3: "), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    assert!(load(&path, &[]).unwrap_err().problem.contains("cannot read"));
    std::fs::write(&path, b"name = \"\xff\"").unwrap();
    assert!(load(&path, &[]).unwrap_err().problem.contains("not UTF-8: byte 8"));
}

#[test]
fn the_guide_names_every_key() {
    let text = "[model]\npreset = \"toy\"\n[data]\ntokenizer = \"t\"\ncache = \"c\"\n\
                corpora = [{ path = \"a\", split = \"^#\" }]\n[price]\nper_hour = 1\ncurrency = \"EUR\"\n\
                [stop]\ntokens = 1\nhours = 1\nmoney = 1\nloss = 1\n";
    let resolved: toml::Table = toml::from_str(&resolve(text).unwrap().toml).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/run-toml.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let mut keys = vec!["preset".to_owned()];
    collect_keys(&toml::Value::Table(resolved), &mut keys);
    assert!(keys.len() > 60, "{keys:?}");
    for key in keys {
        assert!(guide.contains(&format!("`{key}`")) || guide.contains(&format!("[{key}]")), "{key}");
    }
    for name in lingot_spec::presets::NAMES {
        assert!(guide.contains(&format!("`{name}`")), "{name}");
    }
}

fn collect_keys(value: &toml::Value, keys: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| {
            let heading = if key == "router" { "model.router" } else { key };
            keys.push(heading.to_owned());
            collect_keys(value, keys);
        }),
        toml::Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

#[test]
fn a_target_loss_needs_held_out_text() {
    let text = format!("{SMALLEST}validation = 0\n[stop]\nloss = 2.5\n");
    let message = resolve(&text).unwrap_err().to_string();
    assert!(message.starts_with("runs/plays.toml:8: stop.loss is 2.5 but data.validation is 0"), "{message}");
}

#[test]
fn no_text_makes_the_parser_panic() {
    let whole = format!(
        "name = \"x\"\nseed = 3\n{SMALLEST}[batch]\nfrom = 8\nramp_steps = 10\n[stop]\nmoney = 1e3\n\
         [price]\nper_hour = 1\ncurrency = 'EUR'\n[device]\nrecompute = [\"block\"]\n"
    );
    let mut random = Random(7);
    for _ in 0..20_000 {
        let bytes = random.mutate(whole.as_bytes());
        let _ = resolve(&String::from_utf8_lossy(&bytes));
    }
    for _ in 0..5_000 {
        let bytes = random.mutate(b"model.router.scale=[1, { x = \"y\" }]");
        let _ = with_set(&[&String::from_utf8_lossy(&bytes)]);
    }
}

#[test]
fn hostile_nesting_is_an_error_and_no_stack_overflow() {
    let dots = "a.".repeat(100_000);
    for text in [
        format!("{dots}a = 1\n"),
        format!("[{dots}a]\n"),
        format!("[[{dots}a]]\n"),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("x = {{ y = 1, {dots}a = 1 }}\n"),
        format!("\"a\".{dots}a = 1\n"),
    ] {
        assert!(resolve(&text).is_err());
    }
    assert!(with_set(&[&format!("{dots}a=1")]).is_err());
    // What is no TOML value is a word.
    assert!(with_set(&[&format!("name={{ {dots}a=1 }}")]).is_ok());
}
