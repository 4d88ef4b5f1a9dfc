//! Files are what they hold, whatever their names, and records may be what Python writes.

use crate::corpora::{documents, gzip, parquet};
use crate::{Bench, corpus, json_lines, says, stories};
use lingot_data::{pieces, sources};
use lingot_spec::Problem;
use lingot_spec::run::CorpusSpec;
use serde_json::{Value, json};
use std::path::Path;

/// The documents of a file, and the notes of reading it.
fn read(spec: &CorpusSpec) -> Result<(Vec<String>, Vec<String>), Problem> {
    let (mut texts, mut notes) = (Vec::new(), Vec::new());
    for source in sources(spec, Path::new(""))? {
        let mut pieces = pieces(spec, &source)?;
        for piece in pieces.by_ref() {
            texts.push(piece?.text);
        }
        notes.extend(pieces.notes());
    }
    Ok((texts, notes))
}

/// Every way of writing the same records: on lines, over lines, in lists, with and without a byte-order mark.
fn layouts(stories: &[String]) -> Vec<String> {
    let records: Vec<Value> = stories.iter().map(|text| json!({ "id": 1, "text": text })).collect();
    let join = |pretty: bool, between: &str| {
        let text = |record: &Value| if pretty { format!("{record:#}") } else { record.to_string() };
        records.iter().map(text).collect::<Vec<String>>().join(between)
    };
    let (lines, list) = (join(false, "\n"), Value::from(records.clone()));
    vec![
        format!("\u{feff}{lines}"),
        format!("{}\n\n", lines.replace('\n', "\r\n\r\n")),
        // Two files one after the other, each with its mark.
        lines.replacen("\n", "\n\u{feff}", 1),
        lines,
        join(false, ""),
        join(true, "\n"),
        format!("\u{feff}{list}"),
        format!("{list:#}\n"),
    ]
}

#[test]
fn records_are_read_under_any_name_packed_or_not() {
    let stories = stories(40);
    for (number, text) in layouts(&stories).into_iter().enumerate() {
        let bench = Bench::new();
        let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
        for (name, bytes) in [
            ("a.json", text.clone().into_bytes()),
            ("c4-train.00000.json.gz", gzip(text.as_bytes())),
            ("part-00000", text.clone().into_bytes()),
            ("part-00001", gzip(text.as_bytes())),
            ("part-00002", packed.clone()),
            ("a.txt", text.clone().into_bytes()),
            ("a.jsonl", text.clone().into_bytes()),
            ("a.NDJSON", gzip(text.as_bytes())),
            ("a.ndjson.zst", packed.clone()),
        ] {
            let file = bench.write(name, bytes);
            assert_eq!(documents(&corpus(&file)), stories, "layout {number} as {name}");
        }
    }
}

#[test]
fn a_folder_may_mix_them_all() {
    let bench = Bench::new();
    let stories = stories(6);
    let rows: Vec<_> = stories[4..5].iter().cloned().map(Some).collect();
    bench.write("c/a.json", json_lines(&stories[..2]));
    bench.write("c/b.json.gz", gzip(json!([{ "text": stories[2] }]).to_string().as_bytes()));
    bench.write("c/c", zstd::encode_all(json_lines(&stories[3..4]).as_bytes(), 3).unwrap());
    bench.write("c/d.snappy", parquet(&rows, ::parquet::basic::Compression::SNAPPY));
    bench.write("c/e.md", &stories[5]);
    bench.write("c/e.tar.gz", gzip(b"ustar\0\0\0 an archive"));
    assert_eq!(documents(&corpus(&bench.path("c"))), stories);
}

#[test]
fn a_record_longer_than_any_buffer_is_recognised() {
    let bench = Bench::new();
    let long = "a word ".repeat(300_000);
    let file = bench.write("a.json", json!({ "raw": long, "text": "short" }).to_string() + "\n");
    assert_eq!(documents(&corpus(&file)), ["short"]);
    let file = bench.write("b", json!([{ "text": long.trim() }, { "text": "short" }]).to_string());
    assert_eq!(documents(&corpus(&file)), [long.trim(), "short"]);
}

#[test]
fn text_that_looks_like_records_is_text_and_that_is_said() {
    let bench = Bench::new();
    let records = "{\"id\": 1, \"body\": \"a\"}\n{\"id\": 2, \"body\": \"b\"}\n";
    for (name, text) in [("a.json", records), ("list.json", "[{\"id\": 1, \"body\": \"a\"}]")] {
        let mut spec = corpus(&bench.write(name, text));
        let (texts, notes) = read(&spec).unwrap();
        assert_eq!(texts.concat(), text);
        assert!(notes[0].contains(name) && notes[0].contains("keys are: id, body"), "{notes:?}");
        spec.field = "body".into();
        assert_eq!(read(&spec).unwrap().0[0], "a");
    }
    // The name promises records, so this is an error.
    says(&read(&corpus(&bench.write("a.jsonl", records))).unwrap_err(), &["a.jsonl", "line 1", "id, body"]);
    // Ordinary JSON, and text in braces.
    for text in
        ["{\n  \"name\": \"x\"\n}\n", "{ int x; }\n{ int y; }\n", "[1]\n", "{\"text\": \"a\"}\nprose\n"]
    {
        let (texts, notes) = read(&corpus(&bench.write("b.json", text))).unwrap();
        assert_eq!((texts.concat(), notes), (text.to_owned(), vec![]));
    }
    // The preparation passes notes on.
    let mut bench = Bench::new();
    bench.write("c/a.json", records);
    bench.write("c/b.txt", stories(20).concat());
    bench.corpus("c");
    let prepared = bench.prepare().unwrap();
    assert!(prepared.notes.iter().any(|note| note.contains("a.json")), "{:?}", prepared.notes);
    assert_eq!(bench.prepare().unwrap().notes, prepared.notes);
}

#[test]
fn what_python_writes_is_read() {
    let bench = Bench::new();
    for extra in
        ["NaN", "Infinity", "-Infinity", "[NaN, {\"a\": -Infinity}]", "\"NaN \\\" Infinity\"", "1e999"]
    {
        let line = format!("{{\"loss\": {extra}, \"text\": \"kept NaN\", \"more\": {extra}}}\n");
        for name in ["a.jsonl", "a.json"] {
            let (texts, notes) = read(&corpus(&bench.write(name, line.repeat(3)))).unwrap();
            assert_eq!((texts, notes), (vec!["kept NaN".to_owned(); 3], vec![]), "{extra}");
        }
    }
    // Missing values, as pandas writes them.
    let text = "{\"text\": \"a\"}\n{\"text\": NaN}\n{\"text\": null}\n{\"text\": \"b\"}\n";
    assert_eq!(read(&corpus(&bench.write("a.jsonl", text))).unwrap().0, ["a", "b"]);
    // Halves of surrogate pairs, in the text and beside it; pairs stay characters.
    let text = "{\"text\": \"\\ud83d\\ude00\"}\n{\"text\": \"a\\ud83d\"}\n{\"text\": \"\\udc00\\ud800b\"}\n";
    let (texts, notes) = read(&corpus(&bench.write("a.jsonl", text))).unwrap();
    assert_eq!(texts, ["\u{1f600}", "a\u{fffd}", "\u{fffd}\u{fffd}b"]);
    assert!(notes[0].contains("3 halves") && notes[0].contains("line 2"), "{notes:?}");
}

#[test]
fn what_is_no_record_is_named_with_its_line() {
    let bench = Bench::new();
    let good = "{\"text\": \"a\"}\n";
    for (bad, words) in [
        ("{\"text\": nan}\n", "line 3 is not a JSON object"),
        ("{\"text\": \"cut\n", "line 3 is not a JSON object"),
        ("{\"text\": 3}\n", "line 3 has a number under `text`"),
        ("{\"text\": [NaN]}\n", "line 3 has a list under `text`"),
        ("{\"t\": \"\\ud800\"}\n", "line 3 has no `text`"),
        ("prose\n", "line 3 is not a JSON object"),
    ] {
        let file = bench.write("a.jsonl", format!("{good}\n{bad}{good}"));
        says(&read(&corpus(&file)).unwrap_err(), &["a.jsonl", words]);
        let file = bench.write("b.json", format!("[{good},\n{bad},{good}]"));
        if bad.starts_with('{') {
            says(&read(&corpus(&file)).unwrap_err(), &["b.json", words]);
        }
    }
}

#[test]
fn utf_16_is_refused_by_name_even_in_a_folder() {
    let bench = Bench::new();
    let bytes: Vec<u8> = "\u{feff}text".encode_utf16().flat_map(u16::to_le_bytes).collect();
    bench.write("c/a.txt", bytes);
    for path in ["c", "c/a.txt"] {
        says(&read(&corpus(&bench.path(path))).unwrap_err(), &["a.txt", "UTF-16"]);
    }
}
