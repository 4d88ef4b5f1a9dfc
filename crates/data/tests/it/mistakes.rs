//! Bad input gets an error that names it, and nothing is left half-written.

use crate::corpora::{gzip, parquet};
use crate::prepared::bench;
use crate::{Bench, json_lines, says, stories};
use lingot_data::Tokenizer;
use parquet::basic::Compression;

/// The error for a corpus of one file.
fn error_for(name: &str, bytes: impl AsRef<[u8]>) -> lingot_spec::Problem {
    let mut bench = Bench::new();
    bench.write(name, bytes);
    bench.corpus(name);
    bench.fails()
}

#[test]
fn a_missing_path_is_named() {
    let mut bench = Bench::new();
    bench.corpus("nowhere.txt");
    says(&bench.fails(), &["no such file", "nowhere.txt"]);
}

#[test]
fn an_empty_corpus_is_an_error() {
    says(&error_for("empty.txt", ""), &["empty.txt", "no documents"]);
    says(&error_for("blank.txt", "\n \n"), &["blank.txt", "no documents"]);
    says(&error_for("empty.jsonl", "\n"), &["empty.jsonl", "no documents"]);
    says(&error_for("empty.jsonl.gz", gzip(b"")), &["no documents"]);
    says(&error_for("empty.parquet", parquet(&[None, None], Compression::SNAPPY)), &["no documents"]);
    let mut bench = Bench::new();
    bench.write("folder/.hidden", "text");
    bench.corpus("folder");
    says(&bench.fails(), &["folder", "no documents", "0 files"]);
    says(&Bench::new().fails(), &["no corpora"]);
}

#[test]
fn text_that_is_not_utf8_is_named_with_the_offset() {
    says(&error_for("latin.txt", b"ab\ncd caf\xe9 \n"), &["latin.txt", "offset 9", "0xe9", "line 2"]);
    says(
        &error_for("cut.txt", "snowman \u{2603}".as_bytes().split_last().unwrap().1),
        &["cut.txt", "offset 8"],
    );
    says(&error_for("latin.jsonl", b"{\"text\": \"caf\xe9\"}"), &["latin.jsonl", "offset 13"]);
}

#[test]
fn a_broken_json_line_is_named_with_its_number() {
    let good = json_lines(&stories(2));
    for bad in ["{\"text\": \"open", "{\"text\": \"a\"} trailing", "[1]", "\"text\"", "nul"] {
        says(&error_for("bad.jsonl", format!("{good}{bad}\n{good}")), &["bad.jsonl", "line 3"]);
    }
}

#[test]
fn a_missing_field_or_column_lists_what_is_there() {
    let error = error_for("other.jsonl", "{\"content\": \"a\", \"url\": 3}\n");
    says(&error, &["line 1", "no `text`", "content, url"]);
    says(&error_for("number.jsonl", "{\"text\": 3}\n"), &["line 1", "a number"]);
    let rows = [Some("a".to_owned())];
    let mut bench = Bench::new();
    bench.write("a.parquet", parquet(&rows, Compression::SNAPPY));
    bench.corpus("a.parquet").field = "content".into();
    says(&bench.fails(), &["a.parquet", "no column `content`", "id, text"]);
    bench.spec.corpora[0].field = "id".into();
    says(&bench.fails(), &["`id`", "INT64", "not text"]);
}

#[test]
fn packed_files_that_are_truncated_or_corrupt_are_errors() {
    let lines = json_lines(&stories(500));
    let rows: Vec<_> = stories(500).into_iter().map(Some).collect();
    let packed = [
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        ("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
        ("a.parquet", parquet(&rows, Compression::ZSTD(Default::default()))),
    ];
    for (name, bytes) in packed {
        says(&error_for(name, &bytes[..bytes.len() / 2]), &[name]);
        says(&error_for(name, &bytes[..bytes.len() - 1]), &[name]);
        let mut wrong = bytes.clone();
        for byte in &mut wrong[bytes.len() / 2..][..50] {
            *byte ^= 0x55;
        }
        says(&error_for(name, wrong), &[name]);
        says(&error_for(name, "plain text"), &[name]);
    }
}

#[test]
fn shards_that_are_truncated_or_do_not_fit_are_errors() {
    let bench = bench(50);
    bench.prepare().unwrap();
    for name in ["0-stories-training.bin", "0-stories-training.idx", "0-stories-validation.idx"] {
        let path = bench.shards().join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 2]).unwrap();
        let (is, was) = (format!("{} bytes", whole.len() - 2), whole.len().to_string());
        says(&bench.open().err().unwrap(), &[name, &is, &was]);
        std::fs::remove_file(&path).unwrap();
        says(&bench.open().err().unwrap(), &[name]);
        std::fs::write(&path, &whole).unwrap();
    }
    // A token that no tokenizer made: found when it is met.
    let path = bench.shards().join("0-stories-training.bin");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    says(&bench.open().unwrap().training(0, 1).unwrap_err(), &["65535", "tokens 0 to"]);
}

#[test]
fn a_folder_without_or_with_a_strange_manifest_is_an_error() {
    let bench = bench(50);
    says(&bench.open().err().unwrap(), &["no data.json"]);
    bench.write("out/data/notes.txt", "mine");
    says(&bench.prepare().unwrap_err(), &["no data.json"]);
    assert!(bench.path("out/data/notes.txt").exists());
    bench.write("out/data/data.json", "{\"format\": 99}");
    says(&bench.prepare().unwrap_err(), &["format 99", "format 1"]);
    bench.write("out/data/data.json", "{");
    says(&bench.open().err().unwrap(), &["data.json", "corrupt"]);
}

#[test]
fn a_tokenizer_larger_than_the_model_is_an_error_with_both_numbers() {
    let mut bench = bench(50);
    let path = bench.path("t/tokenizer.json");
    std::fs::create_dir(bench.path("t")).unwrap();
    Tokenizer::train(stories(300).into_iter(), 290, &|_| ()).unwrap().save(&path).unwrap();
    bench.spec.tokenizer = Some(path.to_str().unwrap().into());
    bench.vocabulary = 289;
    says(&bench.fails(), &["290", "289"]);
    bench.vocabulary = 290;
    assert_eq!(bench.prepare().unwrap().vocabulary, 290);
    // A larger model would do as well; a smaller one does not, even with the shards there.
    bench.vocabulary = 1000;
    assert!(bench.prepare().unwrap().reused);
    bench.vocabulary = 289;
    says(&bench.prepare().unwrap_err(), &["290", "289"]);
    // Another tokenizer in its place is a change.
    bench.vocabulary = 1000;
    Tokenizer::train(stories(300).into_iter(), 280, &|_| ()).unwrap().save(&path).unwrap();
    says(&bench.prepare().unwrap_err(), &["tokenizer.json", "BLAKE3"]);
}

#[test]
fn a_vocabulary_below_all_bytes_is_an_error() {
    let mut bench = bench(50);
    bench.vocabulary = 256;
    says(&bench.fails(), &["256", "257"]);
}

#[test]
fn a_tokenizer_that_is_missing_broken_or_without_an_end_is_an_error() {
    let mut bench = bench(50);
    bench.spec.tokenizer = Some(bench.path("none.json").to_str().unwrap().into());
    says(&bench.fails(), &["none.json"]);
    bench.write("none.json", "{\"model\": 3}");
    says(&bench.fails(), &["none.json", "not a tokenizer"]);
    let endless =
        "{\"added_tokens\": [], \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}";
    bench.write("none.json", endless);
    says(&bench.fails(), &["none.json", "no token that ends a document"]);
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    let mut bench = bench(50);
    for validation in [-0.1, 1.0, f64::NAN] {
        bench.spec.validation = validation;
        says(&bench.fails(), &["data.validation"]);
    }
    bench.spec.validation = 0.1;
    bench.write("a.txt", "text");
    bench.corpus("a.txt").split = Some("(".into());
    says(&bench.fails(), &["split", "a.txt"]);
    bench.spec.corpora.pop();
    bench.prepare().unwrap();
    bench.spec.corpora[0].weight = 0.0;
    says(&bench.open().err().unwrap(), &["weight 0"]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let bench = bench(50);
    // A file stands where a folder must be; this stops even an administrator.
    bench.write("out", "a file");
    says(&bench.prepare().unwrap_err(), &["out/data"]);
}

#[test]
fn shards_of_another_tokenizer_are_noticed_while_preparing() {
    let made = bench(50);
    made.prepare().unwrap();
    let mut bench = Bench::new();
    std::fs::create_dir(bench.path("t")).unwrap();
    let path = bench.path("t/tokenizer.json");
    Tokenizer::train(stories(50).into_iter(), 260, &|_| ()).unwrap().save(&path).unwrap();
    bench.spec.tokenizer = Some(path.to_str().unwrap().into());
    bench.spec.corpora.push(crate::corpus(&made.shards().join("0-stories-training")));
    says(&bench.fails(), &["0-stories-training", "0 to 259"]);
}
