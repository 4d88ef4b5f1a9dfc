//! Small files that stand for enormous ones, and files that change under a reader: refused by name, in
//! bounded memory and time.

use crate::corpora::{gzip, parquet};
use crate::{Bench, corpus, json_lines, says, stories};
use lingot_data::{Shards, pieces, prepare_to_train};
use lingot_spec::Problem;
use lingot_spec::problem::ProblemKind;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// The error of reading a file to its end, in pieces that stay small.
fn refused(path: &Path) -> Problem {
    let read = pieces(&corpus(path), path).and_then(|pieces| {
        for piece in pieces {
            assert!(piece?.text.len() < 64 << 20);
        }
        Ok(())
    });
    let error = read.expect_err("this must not be accepted");
    says(&error, &[path.file_name().unwrap().to_str().unwrap()]);
    error
}

#[test]
fn a_packed_file_that_repeats_itself_without_end_is_refused_whatever_packs_it() {
    let bench = Bench::new();
    let line = vec![b'a'; 140 << 20];
    let record = [b"{\"text\": \"".as_slice(), &line, b"\"}\n"].concat();
    let lines = b"{\"text\": \"a\"}\n".repeat(6 << 20);
    for (name, bytes, limit) in [
        ("line.txt", &line, "no text repeats itself 200 times"),
        ("record.jsonl", &record, "no text repeats itself 200 times"),
        ("lines.jsonl", &lines, "no text repeats itself 200 times"),
    ] {
        for packed in [gzip(bytes), zstd::encode_all(&bytes[..], 1).unwrap()] {
            let path = bench.write(name, packed);
            says(&refused(&path), &[limit]);
        }
    }
    // What is not packed may be as long as it likes, but a record is parsed as a whole.
    let path = bench.write("plain.jsonl", &record);
    says(&refused(&path), &["line 1 is longer than 134217728 bytes"]);
}

#[test]
fn text_that_packs_well_is_read() {
    let bench = Bench::new();
    let text = stories(2000).concat().repeat(20);
    let packed = gzip(text.as_bytes());
    assert!(packed.len() * 30 < text.len());
    let path = bench.write("text.gz", packed);
    let bytes: usize = pieces(&corpus(&path), &path).unwrap().map(|piece| piece.unwrap().text.len()).sum();
    assert_eq!(bytes, text.len());
}

#[test]
fn parquet_rows_that_share_one_enormous_value_are_refused_after_the_first_few() {
    let bench = Bench::new();
    let rows = vec![Some("a".repeat(1 << 20)); 200];
    for (name, compression) in [
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
    ] {
        let bytes = parquet(&rows, compression);
        assert!(bytes.len() < 1 << 20, "{name} has {} bytes", bytes.len());
        let path = bench.write(&format!("{name}.parquet"), bytes);
        says(&refused(&path), &["no text repeats itself 200 times"]);
    }
}

#[test]
fn a_parquet_page_of_half_a_gigabyte_is_refused_before_it_is_unpacked() {
    let bench = Bench::new();
    let rows = [Some("a".repeat(300 << 20))];
    for compression in [Compression::GZIP(GzipLevel::default()), Compression::ZSTD(ZstdLevel::default())] {
        let path = bench.write("page.parquet", parquet(&rows, compression));
        says(&refused(&path), &["has a page of", "pages have at most 268435456"]);
    }
}

/// An index whose sequences all are the same `length` tokens.
fn overlapping(sequences: usize, length: i32) -> Vec<u8> {
    let mut index = b"MMIDIDX\0\0".to_vec();
    index.extend_from_slice(&1_u64.to_le_bytes());
    index.push(8);
    index.extend_from_slice(&(sequences as u64).to_le_bytes());
    index.extend_from_slice(&(sequences as u64 + 1).to_le_bytes());
    index.extend((0..sequences).flat_map(|_| length.to_le_bytes()));
    index.extend((0..sequences).flat_map(|_| 0_u64.to_le_bytes()));
    index.extend((0..=sequences as u64).flat_map(u64::to_le_bytes));
    index
}

#[test]
fn shards_whose_documents_overlap_are_refused_by_name() {
    let bench = Bench::new();
    bench.write("shards.bin", vec![1; 2048]);
    for (sequences, length) in [(1_000_000, 1024), (2, 1024), (1025, 1)] {
        bench.write("shards.idx", overlapping(sequences, length));
        let error = Shards::open(&bench.path("shards")).err().unwrap();
        says(&error, &["shards.idx", "overlap", "the .bin of 2048 bytes has 1024"]);
        assert_eq!(error.kind, ProblemKind::Damaged);
    }
    bench.write("shards.idx", overlapping(1, 1024));
    assert_eq!(Shards::open(&bench.path("shards")).unwrap().document(0).unwrap().len(), 1024);
}

#[test]
fn a_text_under_the_field_may_be_anything_but_costs_nothing_unless_it_is_text() {
    let bench = Bench::new();
    let numbers = format!("{{\"text\": [{}0]}}\n", "0,".repeat(8 << 20));
    let path = bench.write("numbers.jsonl", numbers);
    says(&refused(&path), &["line 1 has a list under `text`, not text"]);
}

#[test]
fn shards_that_are_truncated_while_they_are_read_are_an_error() {
    let mut bench = Bench::new();
    bench.write("text.jsonl", json_lines(&stories(300)));
    bench.corpus("text.jsonl");
    bench.prepare().unwrap();
    for end in ["bin", "idx"] {
        let dataset = bench.open().unwrap();
        dataset.training(0, 4).unwrap();
        let path = bench.shards().join(format!("0-text-training.{end}"));
        let whole = std::fs::read(&path).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(40).unwrap();
        let error = (0..50).find_map(|sample| dataset.training(sample, 1).err()).unwrap();
        says(&error, &[&format!("0-text-training.{end}"), "was changed while it was read", "40 bytes"]);
        assert_eq!(error.kind, ProblemKind::Damaged);
        std::fs::write(&path, whole).unwrap();
    }
}

#[test]
fn every_flipped_bit_in_a_prepared_folder_is_found_by_its_hash() {
    let mut bench = Bench::new();
    bench.write("text.jsonl", json_lines(&stories(300)));
    bench.corpus("text.jsonl");
    bench.prepare().unwrap();
    let open = || {
        let dataset = prepare_to_train(&bench.spec, 400, 1, &bench.shards(), &|_| ())?;
        dataset.files().check(&AtomicBool::new(false))
    };
    open().unwrap();
    let names = ["0-text-training.bin", "0-text-validation.bin", "0-text-training.idx", "tokenizer.json"];
    for name in names {
        let path = bench.shards().join(name);
        let whole = std::fs::read(&path).unwrap();
        for place in [whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            let error = open().unwrap_err();
            says(&error, &[name]);
            assert_eq!(error.kind, ProblemKind::Damaged, "{error}");
        }
        std::fs::write(&path, whole).unwrap();
    }
    open().unwrap();
    // A shard of another size is found when the data is opened.
    std::fs::write(bench.shards().join(names[0]), "nonsense").unwrap();
    let dataset = bench.open();
    assert!(dataset.is_err(), "its size is checked at once");
}

#[test]
fn hashes_and_documents_of_samples_are_those_of_the_text() {
    let mut bench = Bench::new();
    let stories = stories(200);
    bench.write("a.jsonl", json_lines(&stories[..100]));
    bench.write("b.jsonl", json_lines(&stories[100..]));
    bench.corpus("a.jsonl");
    bench.corpus("b.jsonl");
    let prepared = bench.prepare().unwrap();
    let dataset = bench.open().unwrap();
    let hashes = dataset.hashes().clone();
    assert_eq!((hashes.corpora.len(), hashes.tokenizer.len()), (2, 64));
    // Made again, they are the same; of another text, they are not.
    std::fs::remove_dir_all(bench.shards()).unwrap();
    bench.prepare().unwrap();
    assert_eq!(*bench.open().unwrap().hashes(), hashes);

    let tokenizer = lingot_data::Tokenizer::load(&prepared.tokenizer_path).unwrap();
    for sample in 0..40 {
        let batch = dataset.training(sample, 1).unwrap();
        let tokens: Vec<u32> = batch.tokens.iter().map(|&token| token as u32).collect();
        let text = tokenizer.decode(&tokens);
        let documents = dataset.documents_of(sample, 1).unwrap();
        assert!((1..=2).contains(&documents.len()), "{documents:?}");
        let found = documents.iter().any(|document| {
            let (number, path) = document.strip_prefix("document ").unwrap().split_once(" of ").unwrap();
            let first = if path.ends_with("a.jsonl") { 0 } else { 100 };
            stories[first + number.parse::<usize>().unwrap() - 1].contains(&text)
        });
        assert!(found || documents.len() == 2, "{text}: {documents:?}");
    }
}
