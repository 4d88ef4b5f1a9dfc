//! Batches against what the documents say.

use crate::prepared::bench;
use crate::{Bench, corpus, json_lines, says, stories};
use lingot_data::{Batch, Dataset, Shards};
use std::collections::HashMap;

/// All tokens of the training shards of a corpus, joined, and where documents begin.
fn stream(bench: &Bench, name: &str) -> (Vec<i32>, Vec<bool>) {
    let shards = Shards::open(&bench.shards().join(name)).unwrap();
    let (mut tokens, mut begins) = (Vec::new(), Vec::new());
    for document in 0..shards.documents() {
        for (place, token) in shards.document(document).unwrap().into_iter().enumerate() {
            tokens.push(token as i32);
            begins.push(place == 0);
        }
    }
    (tokens, begins)
}

/// That a row is what the stream has at `at`, with targets, starts and positions as they must be.
fn check_row(batch: &Batch, row: usize, at: usize, (tokens, begins): &(Vec<i32>, Vec<bool>)) {
    let first = row * batch.sequence;
    let mut start = first;
    for place in first..first + batch.sequence {
        let here = (at + place - first) % tokens.len();
        let next = (here + 1) % tokens.len();
        if begins[here] {
            start = place;
        }
        assert_eq!(batch.tokens[place], tokens[here]);
        assert_eq!(batch.targets[place], if begins[next] { -1 } else { tokens[next] });
        assert_eq!(batch.starts[place], start as i32);
        assert_eq!(batch.positions[place], (place - start) as i32);
    }
}

/// Where in the stream a row lies: short documents are told apart by their numbers, so there is one place.
fn find(row: &[i32], tokens: &[i32]) -> usize {
    let ring: Vec<i32> = tokens.iter().chain(&tokens[..row.len()]).copied().collect();
    let places: Vec<_> = (0..tokens.len()).filter(|&at| &ring[at..at + row.len()] == row).collect();
    assert_eq!(places.len(), 1, "a row must be recognisable");
    places[0]
}

#[test]
fn an_epoch_visits_every_token_at_most_once_in_another_order_each_time() {
    let mut bench = bench(120);
    bench.spec.sequence = 64;
    bench.prepare().unwrap();
    let data = bench.open().unwrap();
    let stream = stream(&bench, "0-stories-training");
    let whole = stream.0.len() / 64;
    assert_eq!(data.training_tokens(), stream.0.len() as u64);
    let mut orders = Vec::new();
    for epoch in 0..3 {
        let batch = data.training((epoch * whole) as u64, whole as u32).unwrap();
        let mut seen = vec![false; stream.0.len()];
        let mut order = Vec::new();
        for row in 0..whole {
            let at = find(&batch.tokens[row * 64..][..64], &stream.0);
            check_row(&batch, row, at, &stream);
            for place in at..at + 64 {
                assert!(!std::mem::replace(&mut seen[place % stream.0.len()], true), "seen twice");
            }
            order.push(at);
        }
        assert!(seen.iter().filter(|seen| !**seen).count() < 64);
        orders.push(order);
        assert!((data.epoch((epoch * whole) as u64) - epoch as f64).abs() < 1e-12);
    }
    assert!(orders[0] != orders[1] && orders[1] != orders[2]);
}

#[test]
fn a_batch_depends_on_nothing_but_the_seed_and_the_sample() {
    let mut bench = bench(120);
    bench.write("others.jsonl", json_lines(&stories(40)));
    bench.corpus("others.jsonl").weight = 0.5;
    bench.prepare().unwrap();
    let data = bench.open().unwrap();
    let all = data.training(1000, 64).unwrap();
    let again = bench.open().unwrap();
    for first in [0, 1, 17, 60] {
        let part = again.training(1000 + first, 4).unwrap();
        let range = first as usize * 16..(first as usize + 4) * 16;
        assert_eq!(part.tokens, all.tokens[range.clone()]);
        assert_eq!(part.targets, all.targets[range]);
    }
    let other = Dataset::open(&bench.spec, &bench.shards(), 2).unwrap();
    assert_ne!(other.training(1000, 64).unwrap().tokens, all.tokens);
}

#[test]
fn corpora_are_mixed_by_weight_and_each_is_used_up_before_it_repeats() {
    let mut bench = Bench::new();
    for (name, letter, weight) in [("a", "a", 3.0), ("b", "b", 1.0)] {
        let documents: Vec<String> =
            (0..400).map(|i| format!("{}{i} ", letter.repeat(3)).repeat(4)).collect();
        bench.write(&format!("{name}.jsonl"), json_lines(&documents));
        bench.corpus(&format!("{name}.jsonl")).weight = weight;
    }
    bench.prepare().unwrap();
    let data = bench.open().unwrap();
    let (of_b, _) = stream(&bench, "1-b-training");
    let whole = of_b.len() / 16;
    let batch = data.training(0, 4 * whole as u32).unwrap();
    let tokenizer = lingot_data::Tokenizer::load(&bench.shards().join("tokenizer.json")).unwrap();
    let mut seen: HashMap<Vec<i32>, usize> = HashMap::new();
    for row in batch.tokens.chunks(16) {
        let text: Vec<u32> = row.iter().map(|&token| token as u32).collect();
        if tokenizer.decode(&text).contains('b') {
            *seen.entry(row.to_vec()).or_default() += 1;
        }
    }
    let rows: usize = seen.values().sum();
    assert!(rows.abs_diff(whole) <= 2, "{rows} of {whole}");
    assert!(seen.values().filter(|times| **times > 1).count() <= 2, "a row came twice in one epoch");
}

#[test]
fn validation_covers_every_held_out_token_once_and_pads_the_rest() {
    let bench = bench(120);
    bench.prepare().unwrap();
    let data = bench.open().unwrap();
    let stream = stream(&bench, "0-stories-validation");
    let windows = data.validation_sequences() as usize;
    assert_eq!(windows, (stream.0.len() - 1).div_ceil(16));
    let batch = data.validation(0, windows as u32 + 3).unwrap();
    assert_eq!((batch.sequences, batch.tokens.len()), (windows + 3, (windows + 3) * 16));
    let targets = |batch: &Batch| {
        let mut targets: Vec<i32> = batch.targets.iter().copied().filter(|target| *target >= 0).collect();
        targets.sort_unstable();
        targets
    };
    let mut expected: Vec<i32> =
        stream.0.iter().zip(&stream.1).filter(|(_, begins)| !**begins).map(|(token, _)| *token).collect();
    expected.sort_unstable();
    assert_eq!(targets(&batch), expected);
    assert!(batch.targets[windows * 16..].iter().all(|target| *target == -1));
    assert_eq!(batch.starts[windows * 16 + 5], windows as i32 * 16);
    assert_eq!(batch.positions[windows * 16 + 5], 5);
    // One by one is the same as all at once.
    let singly: Vec<i32> =
        (0..windows as u64).flat_map(|at| data.validation(at, 1).unwrap().tokens).collect();
    assert_eq!(singly, batch.tokens[..windows * 16]);
}

#[test]
fn a_corpus_smaller_than_a_sequence_is_an_error_and_one_as_large_is_not() {
    let mut bench = Bench::new();
    bench.write("small.txt", "a few words, and no more than that");
    bench.corpus("small.txt");
    bench.spec.validation = 0.0;
    let prepared = bench.prepare().unwrap();
    bench.spec.sequence = prepared.tokens as u32 + 1;
    says(
        &bench.open().err().unwrap(),
        &["small.txt", &prepared.tokens.to_string(), &bench.spec.sequence.to_string()],
    );
    bench.spec.sequence -= 1;
    let data = bench.open().unwrap();
    let stream = stream(&bench, "0-small-training");
    let batch = data.training(5, 3).unwrap();
    for row in 0..3 {
        let at = (0..stream.0.len()).find(|&at| {
            (0..stream.0.len())
                .all(|i| batch.tokens[row * stream.0.len() + i] == stream.0[(at + i) % stream.0.len()])
        });
        check_row(&batch, row, at.unwrap(), &stream);
    }
}

#[test]
fn an_end_of_document_inside_shards_of_others_also_parts_documents() {
    let made = bench(60);
    let first = made.prepare().unwrap();
    let tokenizer = lingot_data::Tokenizer::load(&first.tokenizer_path).unwrap();
    let end = tokenizer.end_of_document();
    let bench = Bench::new();
    let mut writer = lingot_data::ShardWriter::create(&bench.path("packed"), 400).unwrap();
    writer.push(&[5, 6, 7, end, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, end]).unwrap();
    writer.finish().unwrap();
    let mut bench = bench;
    bench.spec.corpora.push(corpus(&bench.path("packed")));
    bench.spec.tokenizer = Some(first.tokenizer_path.to_str().unwrap().into());
    bench.spec.validation = 0.0;
    bench.prepare().unwrap();
    let batch = bench.open().unwrap().training(0, 1).unwrap();
    let at = batch.tokens.iter().position(|&token| token == 7).unwrap();
    let ends: Vec<usize> = (0..16).filter(|&place| batch.tokens[place] == end as i32).collect();
    assert!(ends.iter().all(|&place| batch.targets[place] == -1));
    if at + 2 < 16 {
        assert_eq!((batch.targets[at], batch.targets[at + 1]), (end as i32, -1));
        assert_eq!((batch.starts[at + 2], batch.positions[at + 2]), (at as i32 + 2, 0));
    }
}

#[test]
fn wide_vocabularies_are_stored_in_four_bytes() {
    let bench = Bench::new();
    for (vocabulary, bytes) in [(65_536, 2), (65_537, 4)] {
        let prefix = bench.path(&format!("v{vocabulary}"));
        let mut writer = lingot_data::ShardWriter::create(&prefix, vocabulary).unwrap();
        writer.push(&[0, vocabulary - 1]).unwrap();
        writer.end_document();
        writer.push(&[3]).unwrap();
        writer.finish().unwrap();
        let shards = Shards::open(&prefix).unwrap();
        assert_eq!(shards.document(0).unwrap(), [0, i64::from(vocabulary) - 1]);
        assert_eq!(shards.document(1).unwrap(), [3]);
        assert_eq!(std::fs::metadata(bench.path(&format!("v{vocabulary}.bin"))).unwrap().len(), 3 * bytes);
    }
}
