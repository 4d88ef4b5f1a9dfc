//! Every kind of source gives the same documents.

use crate::{Bench, corpus, json_lines, stories};
use lingot_data::{pieces, sources};
use lingot_spec::run::CorpusSpec;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

pub(crate) fn documents(corpus: &CorpusSpec) -> Vec<String> {
    let mut documents = vec![String::new()];
    for source in sources(corpus, Path::new("")).unwrap() {
        for piece in pieces(corpus, &source).unwrap() {
            let piece = piece.unwrap();
            documents.last_mut().unwrap().push_str(&piece.text);
            if piece.ends {
                documents.push(String::new());
            }
        }
    }
    assert_eq!(documents.pop().as_deref(), Some(""));
    documents
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn parquet(rows: &[Option<String>], compression: parquet::basic::Compression) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    // A dictionary of any size, so that rows that are equal take no bytes.
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_page_size_limit(usize::MAX)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let schema = "message rows { required int64 id; optional binary text (UTF8); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut writer =
        parquet::file::writer::SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(400) {
        let mut group = writer.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        let numbers: Vec<i64> = (0..rows.len() as i64).collect();
        ids.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        let mut texts = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|text| text.as_str().into()).collect();
        let levels: Vec<i16> = rows.iter().map(|row| i16::from(row.is_some())).collect();
        texts.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        texts.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn jsonl_plain_and_packed_and_parquet_give_the_same_documents() {
    let bench = Bench::new();
    let stories = stories(1000);
    let lines = json_lines(&stories);
    let rows: Vec<_> = stories.iter().cloned().map(Some).chain([None, Some(String::new())]).collect();
    let files = [
        bench.write("a.jsonl", format!("{lines}\n{{\"text\": null}}\n{{\"text\": \"\"}}")),
        bench.write("a.jsonl.gz", gzip(lines.as_bytes())),
        // Two members one after the other are one file.
        bench.write(
            "b.jsonl.gz",
            [gzip(&lines.as_bytes()[..lines.len() / 2]), gzip(&lines.as_bytes()[lines.len() / 2..])].concat(),
        ),
        bench.write("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
        bench.write("a.parquet", parquet(&rows, parquet::basic::Compression::SNAPPY)),
        bench.write("b.parquet", parquet(&rows, parquet::basic::Compression::ZSTD(Default::default()))),
        bench.write("c.parquet", parquet(&rows, parquet::basic::Compression::GZIP(Default::default()))),
        bench.write("d.parquet", parquet(&rows, parquet::basic::Compression::UNCOMPRESSED)),
    ];
    for file in files {
        assert_eq!(documents(&corpus(&file)), stories, "{}", file.display());
    }
}

#[test]
fn a_folder_is_read_in_order_without_hidden_and_binary_files() {
    let bench = Bench::new();
    bench.write("c/b/late.txt", "three");
    bench.write("c/a.md", "one");
    bench.write("c/b/.hidden", "no");
    bench.write("c/.git/config", "no");
    bench.write("c/b/code.rs", "two");
    bench.write("c/b/picture.png", b"\x89PNG\0\0");
    bench.write("c/blank.txt", " \n\n");
    bench.write("c/z.jsonl", "{\"text\": \"four\"}\n{\"text\": \"five\"}\n");
    bench.write("c/data/kept.txt", "no");
    let corpus = corpus(&bench.path("c"));
    let found = sources(&corpus, &bench.path("c/data")).unwrap();
    let texts: Vec<_> = found.iter().flat_map(|file| pieces(&corpus, file).unwrap()).collect();
    let texts: Vec<_> = texts.into_iter().map(|piece| piece.unwrap().text).collect();
    assert_eq!(texts, ["one", "two", "three", "four", "five"]);
}

#[test]
fn another_field_can_hold_the_text() {
    let bench = Bench::new();
    let file = bench.write("a.jsonl", "{\"meta\": {\"text\": \"no\"}, \"content\": \"yes \\u2603\"}\n");
    let spec = CorpusSpec { field: "content".into(), ..corpus(&file) };
    assert_eq!(documents(&spec), ["yes ☃"]);
}

#[test]
fn a_byte_order_mark_is_not_text() {
    let bench = Bench::new();
    let file = bench.write("a.txt", "\u{feff}text");
    assert_eq!(documents(&corpus(&file)), ["text"]);
}
