//! What a prepared folder holds, and when it is made again.

use crate::{Bench, corpus, json_lines, says, stories};
use lingot_data::{Shards, Tokenizer};
use std::collections::BTreeSet;
use std::path::Path;

/// A bench with one JSONL corpus of so many stories.
pub(crate) fn bench(count: usize) -> Bench {
    let mut bench = Bench::new();
    bench.write("stories.jsonl", json_lines(&stories(count)));
    bench.corpus("stories.jsonl");
    bench
}

pub(crate) fn texts(tokenizer: &Tokenizer, prefix: &Path) -> Vec<String> {
    let shards = Shards::open(prefix).unwrap();
    (0..shards.documents())
        .map(|document| {
            let tokens: Vec<u32> =
                shards.document(document).unwrap().into_iter().map(|token| token as u32).collect();
            assert_eq!(tokens.last(), Some(&tokenizer.end_of_document()), "every document is ended");
            tokenizer.decode(&tokens)
        })
        .collect()
}

#[test]
fn every_document_is_in_one_of_the_two_shards_in_order_and_whole() {
    let bench = bench(200);
    let prepared = bench.prepare().unwrap();
    let tokenizer = Tokenizer::load(&prepared.tokenizer_path).unwrap();
    let training = texts(&tokenizer, &bench.shards().join("0-stories-training"));
    let held_out = texts(&tokenizer, &bench.shards().join("0-stories-validation"));
    assert_eq!(prepared.documents, 200);
    assert_eq!(prepared.corpora[0].validation_documents, held_out.len() as u64);
    assert!((5..40).contains(&held_out.len()), "{}", held_out.len());
    assert_eq!(
        prepared.corpora[0].validation_bytes,
        held_out.iter().map(|text| text.len() as u64).sum::<u64>()
    );
    let (mut training, mut held_out) = (training.into_iter().peekable(), held_out.into_iter().peekable());
    for story in stories(200) {
        assert!(training.next_if_eq(&story).is_some() || held_out.next_if_eq(&story).is_some(), "{story}");
    }
}

#[test]
fn preparing_again_reuses_the_folder_and_a_fresh_one_has_the_same_bytes() {
    let bench = bench(50);
    let first = bench.prepare().unwrap();
    let names = || -> BTreeSet<_> {
        std::fs::read_dir(bench.shards()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let before: Vec<_> =
        names().iter().map(|name| std::fs::read(bench.shards().join(name)).unwrap()).collect();
    let again = bench.prepare().unwrap();
    assert!(!first.reused && again.reused);
    assert_eq!((first.tokens, &first.corpora), (again.tokens, &again.corpora));
    std::fs::remove_dir_all(bench.shards()).unwrap();
    bench.prepare().unwrap();
    for (name, before) in names().iter().zip(before) {
        assert!(std::fs::read(bench.shards().join(name)).unwrap() == before, "{name:?} differs");
    }
}

#[test]
fn weights_and_sequence_may_change_without_preparing_again() {
    let mut bench = bench(50);
    bench.prepare().unwrap();
    bench.spec.sequence = 32;
    bench.spec.corpora[0].weight = 3.0;
    assert!(bench.prepare().unwrap().reused);
    assert_eq!(bench.open().unwrap().training(0, 2).unwrap().sequence, 32);
}

#[test]
fn a_source_that_changed_since_is_an_error_with_both_sizes() {
    let bench = bench(50);
    bench.prepare().unwrap();
    let text = std::fs::read_to_string(bench.path("stories.jsonl")).unwrap();
    bench.write("stories.jsonl", text.clone() + "{\"text\": \"more\"}\n");
    let error = bench.prepare().unwrap_err();
    let (was, is) = (format!("{} bytes", text.len()), format!("{} bytes", text.len() + 17));
    says(&error, &["stories.jsonl", &was, &is, "BLAKE3"]);
    assert!(error.hint.contains("delete the folder") && error.hint.contains("restore"));
    // The same number of bytes, but others.
    bench.write("stories.jsonl", text.replace("Story 7:", "Story 8:"));
    says(&bench.prepare().unwrap_err(), &["stories.jsonl", "BLAKE3"]);
    bench.write("stories.jsonl", text);
    assert!(bench.prepare().unwrap().reused);
    // Shards may travel without their sources.
    std::fs::remove_file(bench.path("stories.jsonl")).unwrap();
    assert!(bench.prepare().unwrap().reused);
}

#[test]
fn files_that_come_and_go_in_a_folder_are_noticed() {
    let mut bench = Bench::new();
    for (number, story) in stories(20).iter().enumerate() {
        bench.write(&format!("c/{number:02}.txt"), story);
    }
    bench.corpus("c");
    bench.prepare().unwrap();
    let added = bench.write("c/new.txt", "more");
    says(&bench.prepare().unwrap_err(), &["new.txt", "was added"]);
    std::fs::remove_file(added).unwrap();
    assert!(bench.prepare().unwrap().reused);
    std::fs::remove_file(bench.path("c/03.txt")).unwrap();
    says(&bench.prepare().unwrap_err(), &["03.txt", "was removed"]);
}

#[test]
fn other_settings_than_those_of_the_shards_are_named() {
    let mut bench = bench(50);
    bench.prepare().unwrap();
    bench.spec.validation = 0.2;
    says(&bench.prepare().unwrap_err(), &["data.validation", "0.1", "0.2"]);
    bench.spec.validation = 0.1;
    bench.vocabulary = 300;
    says(&bench.prepare().unwrap_err(), &["model.vocabulary", "400", "300"]);
    bench.vocabulary = 400;
    bench.seed = 2;
    says(&bench.prepare().unwrap_err(), &["seed = 1", "now 2"]);
    bench.seed = 1;
    bench.spec.corpora[0].field = "id".into();
    says(&bench.prepare().unwrap_err(), &["data.corpora", "`text`", "`id`"]);
}

#[test]
fn the_only_document_of_a_corpus_is_cut_and_that_is_said() {
    let mut bench = Bench::new();
    let text = stories(300).concat();
    bench.write("one.txt", &text);
    bench.corpus("one.txt");
    let prepared = bench.prepare().unwrap();
    let tokenizer = Tokenizer::load(&prepared.tokenizer_path).unwrap();
    assert_eq!((prepared.documents, prepared.bytes), (1, text.len() as u64));
    let held_out = texts(&tokenizer, &bench.shards().join("0-one-validation")).concat();
    assert_eq!(texts(&tokenizer, &bench.shards().join("0-one-training")).concat() + &held_out, text);
    assert!(held_out.len().abs_diff(text.len() / 10) <= 4, "{} of {}", held_out.len(), text.len());
    assert!(prepared.notes[0].contains("one.txt") && prepared.notes[0].contains(&held_out.len().to_string()));
}

#[test]
fn a_long_document_is_encoded_in_pieces_with_the_tokens_of_the_whole() {
    let mut bench = Bench::new();
    let plain = stories(8000).concat();
    let indented = plain.replace(".\n", ". \n").replace("Story", " Story");
    let text = plain + "\n\n" + &indented;
    assert!(text.len() > 2 << 20);
    bench.write("long.txt", &text);
    bench.corpus("long.txt");
    bench.spec.validation = 0.0;
    let prepared = bench.prepare().unwrap();
    let tokenizer = Tokenizer::load(&prepared.tokenizer_path).unwrap();
    let mut tokens = tokenizer.encode(&text);
    tokens.push(tokenizer.end_of_document());
    let shards = Shards::open(&bench.shards().join("0-long-training")).unwrap();
    assert_eq!(shards.documents(), 1);
    assert!(shards.document(0).unwrap().into_iter().eq(tokens.into_iter().map(i64::from)));
    assert!(!bench.shards().join("0-long-validation.bin").exists());
    assert_eq!(bench.open().unwrap().validation_sequences(), 0);
}

#[test]
fn megatron_shards_are_used_in_place_and_split_by_document() {
    let made = bench(100);
    let first = made.prepare().unwrap();
    let prefix = made.shards().join("0-stories-training");
    for named in [prefix.clone(), prefix.with_extension("idx"), prefix.with_extension("bin")] {
        let mut bench = Bench::new();
        bench.spec.corpora.push(corpus(&named));
        says(&bench.fails(), &["no tokenizer"]);
        bench.spec.tokenizer = Some(first.tokenizer_path.to_str().unwrap().into());
        let prepared = bench.prepare().unwrap();
        assert!(
            std::fs::read_dir(bench.shards())
                .unwrap()
                .all(|entry| { entry.unwrap().path().extension().is_none_or(|end| end != "bin") })
        );
        let whole = Shards::open(&prefix).unwrap();
        assert_eq!((prepared.documents, prepared.tokens), (whole.documents() as u64, whole.tokens()));
        let data = bench.open().unwrap();
        assert_eq!(data.training_tokens() + data.validation_tokens(), whole.tokens());
        assert!(prepared.corpora[0].validation_documents > 0 && data.validation_bytes() > 0);
        data.training(0, 50).unwrap();
        data.validation(0, data.validation_sequences() as u32).unwrap();
        assert!(bench.prepare().unwrap().reused);
    }
}

#[test]
fn two_processes_do_not_prepare_the_same_folder_at_once() {
    let bench = bench(50);
    std::fs::create_dir_all(bench.path("out/data.partial")).unwrap();
    let lock = std::fs::File::create(bench.path("out/data.partial/.lock")).unwrap();
    lock.lock().unwrap();
    says(&bench.prepare().unwrap_err(), &["another process"]);
    drop(lock);
    // What a killed process left is swept away.
    bench.write("out/data.partial/0-stories-training.bin", "half");
    assert!(!bench.prepare().unwrap().reused);
    assert!(!bench.path("out/data.partial").exists());
}

#[test]
fn progress_is_told_in_bytes_and_ends_at_the_total() {
    let bench = bench(50);
    let seen = std::cell::RefCell::new(Vec::new());
    let progress = |stage: lingot_data::Stage| seen.borrow_mut().push(stage);
    lingot_data::prepare(&bench.spec, 400, 1, &bench.shards(), &progress).unwrap();
    for name in ["reading", "tokenizer", "encoding"] {
        let last = seen.borrow().iter().rfind(|stage| stage.name == name).copied().unwrap();
        assert!(last.done == last.total && last.total > 0, "{last:?}");
    }
}
