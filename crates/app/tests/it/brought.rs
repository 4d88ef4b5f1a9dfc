//! What users bring: files, numbers and places that are not as expected.

use super::program::{Ended, Place, contents};
use lingot_data::{Shards, Tokenizer};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A place with a trained run in `out/run`, exported to `hf` and imported again to `imported`.
fn with_models() -> Place {
    let place = Place::new();
    place.succeed(&["train", "run.toml"]);
    place.succeed(&["export", "out/run", "--format", "bailing_moe_v2", "--out", "hf"]);
    place.succeed(&["import", "hf", "--out", "imported"]);
    place
}

fn change(path: &Path, change: impl Fn(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn wrong_numbers_and_questions_are_wrong_input_and_come_before_any_output() {
    let place = with_models();
    for (option, number) in [
        ("--temperature=", "-1"),
        ("--temperature=", "NaN"),
        ("--temperature=", "inf"),
        ("--top-p=", "0"),
        ("--top-p=", "1.5"),
        ("--top-p=", "nan"),
    ] {
        let option = format!("{option}{number}");
        place.fail(2, &["generate", "imported", "--prompt", "the", &option]);
    }
    place.fail(2, &["generate", "imported", "--prompt", ""]);
    place.fail(2, &["eval", "out/run", "--sequence", "0"]);
    place.fail(2, &["eval", "out/run", "--sequences", "0"]);
    place.fail(2, &["eval", "out/run", "--data", "absent"]);
    for (line, word) in [
        (r#"{"question": "", "choices": ["s", "1"], "answer": 0}"#, "the question is empty"),
        (r#"{"question": "a", "choices": ["s", " "], "answer": 0}"#, "choice 1 is empty"),
        (r#"{"question": "a", "choices": [], "answer": 0}"#, "there are 0 choices"),
        (r#"{"question": "a", "choices": ["s"], "answer": -1}"#, "is not a question"),
        (r#"{"question": "a"}"#, "is not a question"),
        ("prose", "is not a question"),
    ] {
        place.write("q.jsonl", &format!("\n{line}\n"));
        let said = place.fail(2, &["eval", "imported", "--choices", "q.jsonl"]);
        assert!(said.contains(word) && said.contains("q.jsonl:2"), "{said}");
    }
}

#[test]
fn questions_may_be_what_python_writes() {
    let place = with_models();
    let line = r#"{"id": NaN, "question": "the cat", "choices": ["sees", "a"], "answer": 0}"#;
    place.write(
        "q.jsonl",
        &format!("\u{feff}{line}\r\n\u{feff}{line}\n{}\n", line.replace("cat", "c\\ud83dt")),
    );
    let ended = place.run(&["eval", "imported", "--choices", "q.jsonl", "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["choices"]["questions"], 3);
    assert!(ended.err.contains("q.jsonl:3: 1 halves"), "{}", ended.err);
}

#[test]
fn any_of_several_ends_ends_a_text() {
    let place = with_models();
    let text = |from: &str| -> Value {
        place.json(&["generate", from, "--prompt", "the cat", "--greedy", "--tokens", "12"])
    };
    assert_eq!(text("imported")["tokens"], 12);
    let all: Vec<u32> = (0..300).collect();
    // Where two files name ends, those of generation_config.json count.
    for (name, generation, config, tokens) in [
        ("several", json!(all), json!(299), 0),
        ("other", json!([299, 298]), json!(all), 12),
        ("third", Value::Null, json!(all), 0),
    ] {
        change(&place.path("hf/generation_config.json"), |object| {
            object["eos_token_id"] = generation.clone()
        });
        change(&place.path("hf/config.json"), |object| object["eos_token_id"] = config.clone());
        place.succeed(&["import", "hf", "--out", name]);
        let found = text(name);
        assert_eq!((&found["ended"], &found["tokens"]), (&(tokens == 0).into(), &tokens.into()), "{name}");
    }
}

#[test]
fn a_prompt_that_spells_a_special_token_is_text_and_that_is_said() {
    let place = with_models();
    let tokens = |more: &[&str]| {
        let words = ["generate", "imported", "--prompt", "a<|endoftext|>", "--tokens", "1", "--json"];
        let Ended { code, out, err } = place.run(&[&words, more].concat());
        assert_eq!(code, 0, "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        (report["prompt_tokens"].as_u64().unwrap(), err.contains("note: `<|endoftext|>` in the prompt"))
    };
    let (as_text, is_said) = tokens(&[]);
    assert!(as_text > 2 && is_said);
    assert_eq!(tokens(&["--special-tokens"]), (2, false));
}

/// Text that is scored as a run's held-out text and as a file has one number of bits per byte.
#[test]
fn there_is_one_bits_per_byte() {
    let place = Place::new();
    let lines: String = super::program::text(400)
        .lines()
        .map(|line| format!("{}\n", json!({ "text": &line[..line.len() / 2] })))
        .collect();
    place.write("text.jsonl", &lines);
    let set = ["--set", "data.corpora.0.path=text.jsonl", "--set", "evaluation.sequences=100000"];
    place.succeed(&[&["train", "run.toml"], &set[..]].concat());
    let data = place.path("out/run/data");
    let tokenizer = Tokenizer::load(&data.join("tokenizer.json")).unwrap();
    let shards = Shards::open(&data.join("0-text-validation")).unwrap();
    let texts: String = (0..shards.documents())
        .map(|document| {
            let tokens: Vec<u32> =
                shards.document(document).unwrap().into_iter().map(|token| token as u32).collect();
            format!("{}\n", json!({ "text": tokenizer.decode(&tokens) }))
        })
        .collect();
    place.write("held-out.json", &texts);
    let score = |more: &[&str]| {
        let report = place.json(&[&["eval", "out/run"], more].concat());
        ["bits_per_byte", "loss", "tokens"].map(|key| report["text"][key].as_f64().unwrap())
    };
    let [bits, loss, tokens] = score(&[]);
    let given = score(&["--data", "held-out.json"]);
    assert_eq!(given[2], tokens);
    assert!((given[1] - loss).abs() < 0.1 * loss, "{given:?} {loss}");
    let per_token = |bits: f64, loss: f64| bits / loss;
    assert!((per_token(given[0], given[1]) / per_token(bits, loss) - 1.0).abs() < 1e-12, "{given:?} {bits}");
}

#[test]
fn a_run_with_a_relative_cache_is_found_from_anywhere() {
    let place = Place::new();
    place.succeed(&["train", "run.toml", "--set", "data.cache=elsewhere/data"]);
    let absolute = place.path("absolute").display().to_string();
    place.succeed(&[
        "train",
        "run.toml",
        "--set",
        "data.cache=more/data",
        "--set",
        &format!("folder={absolute}"),
    ]);
    fs::create_dir(place.path("far")).unwrap();
    let run = place.path("out/run").display().to_string();
    for (run, out) in [(run, "a"), (absolute, "b"), ("../out/run".into(), "c")] {
        for words in [
            &["generate", &run, "--prompt", "the", "--tokens", "2"][..],
            &["eval", &run],
            &["export", &run, "--format", "glm4_moe", "--out", out],
        ] {
            let output = place.command(words).current_dir(place.path("far")).output().unwrap();
            assert!(output.status.success(), "{words:?} {}", String::from_utf8_lossy(&output.stderr));
        }
        assert!(place.path(&format!("far/{out}/tokenizer.json")).is_file());
    }
    // A tokenizer that should be there and is not is an error.
    fs::remove_dir_all(place.path("elsewhere")).unwrap();
    assert!(place.fail(2, &["export", "out/run", "--out", "d"]).contains("tokenizer"));
    assert!(!place.path("d").exists());
}

#[test]
fn commands_write_into_an_empty_folder_that_is_there() {
    let place = with_models();
    place.succeed(&["train", "run.toml", "--set", "stop.steps=16"]);
    let run = place.path("out/run").display().to_string();
    let steps = ["12", "16"].map(|step| format!("{run}/checkpoints/step-{step:0>8}"));
    let text = place.path("text.txt").display().to_string();
    let hf = place.path("hf").display().to_string();
    for words in [
        &["data", &text, "--vocabulary", "300"][..],
        &["import", &hf],
        &["export", &run, "--format", "glm4_moe"],
        &["merge", &steps[0], &steps[1]],
    ] {
        for name in ["beside", "here", "."] {
            let home = place.path(&format!("{}-{}", words[0], name.len()));
            fs::create_dir(&home).unwrap();
            if name == "here" {
                fs::create_dir(home.join(name)).unwrap();
            }
            let output = place.command(words).args(["--out", name]).current_dir(&home).output().unwrap();
            assert!(output.status.success(), "{words:?} {name} {}", String::from_utf8_lossy(&output.stderr));
            let files = contents(&home);
            assert!(files.len() > 2 && files.iter().all(|(path, _)| !path.ends_with(".partial")));
            let again = place.command(words).args(["--out", name]).current_dir(&home).output().unwrap();
            // Data that is there is checked and reused; everything else is never overwritten.
            assert_eq!(again.status.success(), words[0] == "data", "{words:?} {name}");
        }
    }
}

#[test]
fn text_that_was_too_short_may_be_followed_by_more() {
    let place = Place::new();
    place.write("text.txt", "Hello world.\n");
    let said = place.fail(2, &["train", "run.toml"]);
    assert!(said.contains("add text"), "{said}");
    place.write("text.txt", &super::program::text(300));
    place.succeed(&["train", "run.toml", "--set", "stop.steps=1"]);
}

#[test]
fn a_run_says_which_records_it_reads_as_plain_text() {
    let place = Place::new();
    let line = |number: u32| format!("{}\n", json!({ "body": format!("the cat sees {number} dogs") }));
    place.write("text.txt", &(0..300).map(line).collect::<String>());
    let ended = place.run(&["train", "run.toml", "--set", "stop.steps=1"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(
        ended.err.contains("text.txt is read as plain text") && ended.err.contains("body"),
        "{}",
        ended.err
    );
}
