//! What the commands do, from text to exported model, and the keys of their JSON.

use super::program::{Place, contents, hashes};
use expect_test::{Expect, expect};
use serde_json::Value;

/// The keys of an object in alphabetical order, with the keys of the objects inside.
fn keys(value: &Value) -> String {
    let Value::Object(object) = value else { return String::new() };
    let inner = |(key, value): (&String, &Value)| match value {
        Value::Object(_) => format!("{key} {{ {} }}", keys(value)),
        Value::Array(items) => match items.first() {
            Some(Value::Object(_)) => format!("{key} [{{ {} }}]", keys(&items[0])),
            _ => key.clone(),
        },
        _ => key.clone(),
    };
    let mut all: Vec<String> = object.iter().map(inner).collect();
    all.sort();
    all.join(", ")
}

fn has_keys(value: &Value, expected: Expect) {
    expected.assert_eq(&keys(value));
}

#[test]
fn published_models_have_their_published_figures() {
    let place = Place::new();
    for (name, layers, parameters, activated, text) in [
        ("ling-lite", 28, 16.802e9, 2.753e9, ["16.802 B", "2.753 B"]),
        ("ling-plus", 88, 290.6e9, 29.0e9, ["290.6 B", "29.0"]),
        ("ling-mini-2.0", 20, 16.256e9, 1.433e9, ["16.256 B", "1.433 B"]),
    ] {
        let figures = place.json(&["model", name]);
        assert_eq!(figures["layers"], layers, "{name}");
        let near = |key: &str, wanted: f64| {
            let found = figures[key].as_f64().unwrap();
            assert!((found / wanted - 1.0).abs() < 2e-3, "{name} {key} {found}");
        };
        near("parameters", parameters);
        near("activated_parameters", activated);
        assert!(figures["flops_per_token"].as_f64().unwrap() > 6.0 * activated * 0.8);
        assert!(figures["bytes_to_train"].as_f64().unwrap() >= 16.0 * parameters * 0.99);
        let shown = place.succeed(&["model", name]);
        assert!(text.iter().all(|text| shown.contains(text)), "{shown}");
    }
    let figures = place.json(&["model", "run.toml"]);
    assert_eq!((&figures["name"], &figures["sequence"]), (&"run".into(), &16.into()));
    assert!(place.succeed(&["model"]).contains("ling-plus"));
    assert_eq!(place.json(&["model"])["presets"].as_array().unwrap().len(), 7);
}

#[test]
fn a_run_trains_ends_and_then_has_nothing_left_to_do() {
    let place = Place::new();
    let report = place.json(&["train", "run.toml"]);
    has_keys(
        &report,
        expect![
            "activated_parameters, already_done, bits_per_byte, checkpoint, currency, first_held_out_loss, \
             folder, held_out_loss, interrupted, money, parameters, perplexity, reason, run, \
             sample { prompt, text }, seconds, step, steps, tokens, tokens_per_s"
        ],
    );
    assert_eq!((&report["step"], &report["tokens"]), (&12.into(), &(12 * 4 * 16).into()));
    assert_eq!(report["already_done"], false);
    let (first, last) =
        (report["first_held_out_loss"].as_f64().unwrap(), report["held_out_loss"].as_f64().unwrap());
    assert!(last < first, "{first} -> {last}");
    for file in ["run.jsonl", "run.toml", "tensorboard", "data/tokenizer.json", "checkpoints/step-00000012"] {
        assert!(place.path("out/run").join(file).exists(), "{file}");
    }

    let before = contents(&place.path("out"));
    let again = place.json(&["train", "run.toml"]);
    assert_eq!((&again["already_done"], &again["held_out_loss"]), (&true.into(), &report["held_out_loss"]));
    assert!(place.succeed(&["train", "run.toml"]).contains("nothing left to do"));
    assert!(before == contents(&place.path("out")), "a run that has ended is not touched");

    // With a higher limit it resumes, and prints the whole report.
    let shown = place.run(&["train", "run.toml", "--set", "stop.steps=16"]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(shown.err.contains("resuming at step 12"), "{}", shown.err);
    for word in ["held-out loss", "sample:", "next:", "generate out/run", "tensorboard --logdir out/run"] {
        assert!(shown.out.contains(word), "{word}: {}", shown.out);
    }
}

#[test]
fn the_stored_run_is_the_same_run_and_a_price_is_counted() {
    let place = Place::new();
    let price = ["--set", "price.per_hour=3600", "--set", "price.currency=EUR"];
    let report = place.json(&[&["train", "run.toml"], price.as_slice()].concat());
    assert_eq!(report["currency"], "EUR");
    for paid in [&report, &place.json(&["ledger", "out/run"])["runs"][0]] {
        let [money, seconds] = ["money", "seconds"].map(|key| paid[key].as_f64().unwrap());
        assert!((money - seconds).abs() < 1e-6, "{paid}");
    }
    place.succeed(&["train", "out/run/run.toml", "--set", "folder=again"]);
    let checkpoint = "checkpoints/step-00000012";
    assert_eq!(
        hashes(&place.path("out/run").join(checkpoint)),
        hashes(&place.path("again").join(checkpoint))
    );
}

#[test]
fn data_is_prepared_for_a_run_or_by_itself() {
    let place = Place::new();
    let report = place.json(&["data", "run.toml"]);
    has_keys(
        &report,
        expect![
            "bytes, corpora [{ bytes, documents, path, tokens, validation_bytes, validation_documents, \
             validation_tokens }], documents, folder, notes, reused, tokenizer, tokens, tokens_per_byte, \
             vocabulary"
        ],
    );
    assert_eq!(report["reused"], false);
    assert_eq!(place.json(&["data", "run.toml"])["reused"], true);
    place.write("more.jsonl", "{\"body\": \"one document\"}\n{\"body\": \"and another\"}\n");
    let words = ["data", "more.jsonl", "--field", "body", "--out", "shards", "--vocabulary", "258"];
    let report = place.json(&words);
    assert_eq!((&report["documents"], &report["vocabulary"]), (&2.into(), &258.into()));
    assert!(place.path("shards/tokenizer.json").is_file());
    assert!(place.fail(2, &["data", "text.txt"]).contains("--out is missing"));
}

#[test]
fn a_checkpoint_is_sampled_the_same_way_every_time() {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    let generate = ["generate", "out/run", "--prompt", "the cat", "--tokens", "20"];
    let report = place.json(&generate);
    has_keys(&report, expect!["checkpoint, ended, prompt, prompt_tokens, seconds, text, tokens"]);
    // JSON has the text itself; what would command a terminal is shown by its number.
    let shown = |letter: char| match letter {
        '\n' | '\t' => letter.to_string(),
        '\r' => "\\r".into(),
        _ if letter.is_control() => letter.escape_unicode().to_string(),
        _ => letter.to_string(),
    };
    let text: String = report["text"].as_str().unwrap().chars().map(shown).collect();
    let text = format!("the cat{text}\n");
    assert_eq!(place.succeed(&generate), text);
    assert_ne!(place.succeed(&[generate.as_slice(), &["--seed", "1"]].concat()), text);
    let greedy = place.succeed(&[generate.as_slice(), &["--greedy"]].concat());
    assert_eq!(
        place.succeed(&[generate.as_slice(), &["--temperature", "0", "--seed", "9"]].concat()),
        greedy
    );
    assert!(place.fail(2, &["generate", "out/run", "--prompt", ""]).contains("the prompt is empty"));
}

#[test]
fn a_checkpoint_is_scored_on_held_out_text_a_file_and_questions() {
    let place = Place::new();
    let trained = place.json(&["train", "run.toml"]);
    let report = place.json(&["eval", "out/run"]);
    has_keys(
        &report,
        expect!["checkpoint, choices, step, text { bits_per_byte, loss, perplexity, source, tokens }"],
    );
    assert_eq!(report["text"]["loss"], trained["held_out_loss"]);

    place.write("seen.txt", "the cat sees a red house by day.\n");
    place.write("strange.txt", "0x7f@@{}[]\u{7a7a}\u{7a7a}~~ QZXJ\n");
    let bits = |file: &str| {
        place.json(&["eval", "out/run", "--data", file])["text"]["bits_per_byte"].as_f64().unwrap()
    };
    assert!(bits("seen.txt") < bits("strange.txt"));

    place.write(
        "questions.jsonl",
        "{\"question\": \"the cat\", \"choices\": [\"sees\", \"@@@@@@\"], \"answer\": 0}\n\
         {\"context\": \"the dog\", \"choices\": [\"{{{{}}}}\", \"hears\"], \"answer\": 0}\n",
    );
    let report = place.json(&["eval", "out/run", "--choices", "questions.jsonl"]);
    has_keys(
        &report,
        expect![
            "checkpoint, choices { accuracy, accuracy_error, accuracy_normalised, accuracy_normalised_error, \
             questions, source }, step, text"
        ],
    );
    assert_eq!((&report["choices"]["questions"], &report["choices"]["accuracy"]), (&2.into(), &0.5.into()));
    place.write("questions.jsonl", "{\"question\": \"a\", \"choices\": [\"b\"], \"answer\": 1}\n");
    let said = place.fail(2, &["eval", "out/run", "--choices", "questions.jsonl"]);
    let wanted = "questions.jsonl:1 is not a question: answer is 1, there are 1 choices, counted from 0";
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn an_exported_model_comes_back_the_same_and_leaves_again_byte_for_byte() {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    let report = place.json(&["export", "out/run", "--format", "bailing_moe_v2", "--out", "exported"]);
    has_keys(
        &report,
        expect![
            "architecture, bytes, checkpoint, dtype, files, folder, format, has_tokenizer, norm_head_folded, \
             tensors"
        ],
    );
    assert!(place.path("exported/config.json").is_file() && place.path("exported/tokenizer.json").is_file());
    let report = place.json(&["import", "exported", "--out", "imported"]);
    has_keys(
        &report,
        expect!["activated_parameters, dtype, folder, format, has_tokenizer, notes, parameters, tensors"],
    );
    let prompt = ["--prompt", "the cat", "--greedy"];
    assert_eq!(
        place.succeed(&[&["generate", "imported"], prompt.as_slice()].concat()),
        place.succeed(&[&["generate", "out/run"], prompt.as_slice()].concat())
    );
    place.succeed(&["export", "imported", "--out", "again"]);
    let names = |folder: &str| -> Vec<(String, Vec<u8>)> {
        let all = contents(&place.path(folder)).into_iter();
        all.map(|(path, bytes)| (path.file_name().unwrap().to_str().unwrap().to_owned(), bytes)).collect()
    };
    assert!(names("exported") == names("again"), "the folders differ");
    assert!(place.fail(2, &["import", "exported", "--out", "imported"]).contains("exists already"));
    let refused = place.fail(2, &["export", "out/run", "--format", "qwen3_moe", "--out", "other"]);
    assert!(refused.contains("qwen3_moe cannot express this model"), "{refused}");
    assert!(!place.path("other").exists());
}

#[test]
fn checkpoints_are_merged_into_one_that_generates() {
    let place = Place::new();
    place.succeed(&["train", "run.toml", "--set", "checkpoint.keep=0"]);
    let steps = ["4", "8", "12"].map(|step| format!("out/run/checkpoints/step-{step:0>8}"));
    let words = ["merge", &steps[0], &steps[1], &steps[2], "--decay", "mean", "--out", "merged"];
    let report = place.json(&words);
    has_keys(&report, expect!["folder, merged [{ coefficient, path, step }], step"]);
    assert_eq!(report["merged"].as_array().unwrap().len(), 3);
    place.succeed(&["generate", "merged", "--prompt", "the cat", "--tokens", "4"]);
    assert!(
        place.fail(2, &["merge", &steps[1], &steps[0], "--out", "wrong"]).contains("does not come after")
    );
    assert!(!place.path("wrong").exists());
}

#[test]
fn the_processor_is_listed() {
    let report = Place::new().json(&["devices"]);
    has_keys(
        &report,
        expect!["devices [{ description, memory_bytes, name, routes, threads }], missing [{ name, reason }]"],
    );
    assert_eq!(report["devices"][0]["name"], "cpu");
    assert!(report["devices"][0]["threads"].as_u64().unwrap() >= 1);
    let shown = Place::new().succeed(&["devices", "-v"]);
    assert!(shown.starts_with("cpu "), "{shown}");
    let missing = shown.split_once("not found:").unwrap().1;
    assert!(missing.lines().any(|line| line.starts_with("torch:npu:0 ") && line.len() > 40), "{shown}");
}

#[test]
fn all_devices_are_those_that_were_found() {
    let place = Place::new();
    let run = ["train", "run.toml", "--device", "all", "--set", "batch.micro=1", "--set", "stop.steps=2"];
    let mut command = place.command(&run);
    // Without torch the processor is the only device on every machine.
    let ended = command.env("LINGOT_TORCH", place.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && said.contains("devices   cpu\n"), "{said}");
}
