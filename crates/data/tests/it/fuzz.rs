//! Parsers of files that others wrote: whatever the bytes, the answer is a value or an error.

use crate::corpora::parquet;
use crate::{Bench, Noise, corpus, json_lines, stories};
use lingot_data::{ShardWriter, Shards, Tokenizer, parse_line, pieces};
use parquet::basic::Compression;
use std::path::Path;

/// A few changes of a valid file: bytes flipped, replaced, cut out, doubled, or the end cut off.
fn mutate(valid: &[u8], noise: &mut Noise) -> Vec<u8> {
    const EDGES: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'{', b'-', b'9'];
    let mut bytes = valid.to_vec();
    for _ in 0..=noise.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = noise.below(bytes.len());
        let end = (at + 1 + noise.below(12)).min(bytes.len());
        match noise.below(6) {
            0 => bytes[at] ^= 1 << noise.below(8),
            1 => bytes[at] = EDGES[noise.below(EDGES.len())],
            2 => bytes[at..end].fill(EDGES[noise.below(5)]),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.splice(at..at, bytes[at..end].to_vec()).for_each(drop),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn a_mutated_index_opens_or_is_refused_and_what_opens_can_be_read() {
    let bench = Bench::new();
    let prefix = bench.path("valid");
    let mut writer = ShardWriter::create(&prefix, 300).unwrap();
    for document in 0..200_u32 {
        writer.push(&(0..document % 7).collect::<Vec<_>>()).unwrap();
        writer.end_document();
    }
    writer.finish().unwrap();
    let index = std::fs::read(bench.path("valid.idx")).unwrap();
    let bin_bytes = std::fs::metadata(bench.path("valid.bin")).unwrap().len();
    assert_eq!(Shards::check_index(&index, bin_bytes), Ok(()));
    let mut noise = Noise(1);
    let mut accepted = 0;
    for round in 0..20_000 {
        // Half of them in the header, where it hurts most.
        let mutated = match round % 2 {
            0 => [mutate(&index[..34], &mut noise).as_slice(), &index[34..]].concat(),
            _ => mutate(&index, &mut noise),
        };
        if Shards::check_index(&mutated, bin_bytes).is_err() {
            continue;
        }
        accepted += 1;
        if accepted % 8 == 0 {
            std::fs::write(bench.path("valid.idx"), &mutated).unwrap();
            let shards = Shards::open(&prefix).unwrap();
            let read: usize =
                (0..shards.documents()).map(|document| shards.document(document).unwrap().len()).sum();
            assert_eq!(read as u64, shards.tokens());
        }
    }
    assert!(accepted > 10, "some changes do no harm: {accepted}");
}

#[test]
fn a_mutated_json_line_is_text_or_refused() {
    let valid = json_lines(&["née \"☃\"\\ \n\u{1f680}".to_owned()]);
    let mut noise = Noise(2);
    for _ in 0..50_000 {
        let mutated = mutate(valid.as_bytes(), &mut noise);
        let _ = parse_line(&String::from_utf8_lossy(&mutated), "text");
    }
    assert!(parse_line(&"[".repeat(1 << 20), "text").is_err());
    assert!(parse_line(&("{\"text\":".repeat(100_000) + "1"), "text").is_err());
}

#[test]
fn a_mutated_tokenizer_is_used_or_refused() {
    let bench = Bench::new();
    let path = bench.path("tokenizer.json");
    Tokenizer::train(stories(50).into_iter(), 290, &|_| ()).unwrap().save(&path).unwrap();
    // Without the long table of bytes, so that every part is hit.
    let mut small: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let kept: serde_json::Map<String, serde_json::Value> = ["a", "b", "Ġ", "Ġa", "ab", "<|endoftext|>"]
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), id.into()))
        .collect();
    small["model"]["vocab"] = kept.into();
    small["model"]["merges"] = serde_json::json!([["a", "b"], ["Ġ", "a"]]);
    small["added_tokens"][0]["id"] = 5.into();
    let valid = serde_json::to_vec(&small).unwrap();
    assert!(Tokenizer::parse(&valid, None, Path::new("valid")).is_ok());
    let mut noise = Noise(3);
    let mut accepted = 0;
    for _ in 0..3000 {
        let mutated = mutate(&valid, &mut noise);
        if let Ok(tokenizer) = Tokenizer::parse(&mutated, None, Path::new("mutated")) {
            accepted += 1;
            tokenizer.decode(&tokenizer.encode("ab a\n1 ☃ <|endoftext|>"));
        }
    }
    assert!(accepted > 10, "some changes do no harm: {accepted}");
}

#[test]
fn a_mutated_parquet_file_is_read_or_refused() {
    let bench = Bench::new();
    let rows: Vec<_> = stories(60).into_iter().map(Some).chain([None]).collect();
    let mut noise = Noise(4);
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
        let valid = parquet(&rows, compression);
        for _ in 0..500 {
            // The end, where the file says what it holds, and the first page.
            let mutated = match noise.below(2) {
                0 => [&valid[..valid.len() - 400], &mutate(&valid[valid.len() - 400..], &mut noise)].concat(),
                _ => [&mutate(&valid[..400], &mut noise), &valid[400..]].concat(),
            };
            let corpus = corpus(&bench.write("mutated.parquet", mutated));
            let Ok(pieces) = pieces(&corpus, Path::new(&corpus.path)) else { continue };
            for piece in pieces.take(1000) {
                let _ = piece;
            }
        }
    }
}
