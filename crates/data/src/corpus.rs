//! A corpus as a stream of documents: which files it is made of, and the text in them, in bounded memory.

use crate::document::Pieces;
use crate::{columns, lines, records};
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::CorpusSpec;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The files of a corpus: the file itself, or those of a folder, sorted by path. Hidden and binary files are
/// left out, and so is everything under `except` (the shards themselves may lie inside the corpus).
pub fn sources(corpus: &CorpusSpec, except: &Path) -> Result<Vec<PathBuf>> {
    let path = Path::new(&corpus.path);
    let about = fs::metadata(path).map_err(|e| missing(path, &e))?;
    if !about.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    walk(path, &except.canonicalize().unwrap_or_default(), &mut found)?;
    Ok(found)
}

/// The documents of one source of a corpus.
pub fn pieces(corpus: &CorpusSpec, source: &Path) -> Result<Pieces> {
    let (name, packed) = unpacked_name(source);
    if name.ends_with(".parquet") && packed.is_none() {
        return columns::pieces(source, &corpus.field);
    }
    let reader = open(source)?;
    if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
        return Ok(records::json_pieces(reader, source, &corpus.field));
    }
    lines::text_pieces(reader, source, corpus.split.as_deref())
}

fn missing(path: &Path, error: &std::io::Error) -> Problem {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Problem::io("read", path, error);
    }
    Problem::new(
        format!("no such file or folder: {}", path.display()),
        "check `data.corpora`; a corpus is a text, .jsonl or .parquet file, a folder of those, or the prefix of \
         Megatron shards (PREFIX.bin and PREFIX.idx)",
    )
}

fn walk(folder: &Path, except: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|e| Problem::io("list", folder, &e))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let linked = entry.file_type().map_err(|e| Problem::io("read", &path, &e))?.is_symlink();
        // A link that leads nowhere is not text.
        let Ok(about) = fs::metadata(&path) else { continue };
        if about.is_dir() {
            // Links to folders may lead in circles.
            if !linked && path.canonicalize().ok().as_deref() != Some(except) {
                walk(&path, except, found)?;
            }
        } else if about.is_file() && is_text(&path)? {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether a file of a folder is read at all: what is packed goes by its name, the rest by its first bytes.
fn is_text(path: &Path) -> Result<bool> {
    let (name, packed) = unpacked_name(path);
    if packed.is_some() || name.ends_with(".parquet") {
        return Ok([".jsonl", ".ndjson", ".txt", ".md", ".parquet"].iter().any(|end| name.ends_with(end)));
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(|e| Problem::io("open", path, &e))?;
    file.take(8192).read_to_end(&mut head).map_err(|e| Problem::io("read", path, &e))?;
    Ok(!head.contains(&0))
}

enum Packed {
    Gzip,
    Zstandard,
}

/// The file's name in lower case without `.gz` or `.zst`, and which of them it was.
fn unpacked_name(path: &Path) -> (String, Option<Packed>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if let Some(inner) = name.strip_suffix(".gz") {
        return (inner.into(), Some(Packed::Gzip));
    }
    match name.strip_suffix(".zst") {
        Some(inner) => (inner.into(), Some(Packed::Zstandard)),
        None => (name, None),
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = File::open(path).map_err(|e| Problem::io("open", path, &e))?;
    let file = BufReader::with_capacity(1 << 16, file);
    Ok(match unpacked_name(path).1 {
        None => Box::new(file),
        Some(Packed::Gzip) => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))),
        Some(Packed::Zstandard) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(file);
            Box::new(BufReader::new(decoder.map_err(|e| Problem::io("unpack", path, &e))?))
        }
    })
}
