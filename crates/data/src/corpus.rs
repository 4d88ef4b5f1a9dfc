//! A corpus as a stream of documents: the files it is made of, and the text in them, in bounded memory.

use crate::document::{Notes, Pieces};
use crate::packing::{self, Opened, Stream};
use crate::records::{Layout, Recognised, recognise, record_pieces};
use crate::{columns, lines};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::CorpusSpec;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of a corpus: the file itself, or those of a folder, sorted by path. Hidden and binary files are
/// left out, and so is everything under `except`, since the shards may lie inside the corpus.
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

/// The documents of one source of a corpus. What the file holds is recognised by its content: Parquet, gzip
/// and Zstandard by their first bytes, records by the objects in it. Only where those tell nothing does the
/// name count.
pub fn pieces(corpus: &CorpusSpec, source: &Path) -> Result<Pieces> {
    pieces_of(corpus, source, source)
}

/// The documents of a source whose bytes lie in `file`.
pub(crate) fn pieces_of(corpus: &CorpusSpec, source: &Path, file: &Path) -> Result<Pieces> {
    let notes = Notes::default();
    let Opened::Stream(mut stream) = packing::open(file, source)? else {
        return columns::pieces(file, source, &corpus.field);
    };
    let is_named_lines = [".jsonl", ".ndjson"].iter().any(|end| packing::plain_name(source).ends_with(end));
    let layout = match recognised(&mut stream, source, &corpus.field)? {
        Recognised::Records(layout) => Some(layout),
        // The name promises records, so that what is wrong with them is an error.
        _ if is_named_lines => Some(Layout::Lines),
        Recognised::Lookalike(keys) => {
            notes.add(format!(
                "{} is read as plain text: it looks like JSON records without `{}`; their keys are: {}",
                source.display(),
                corpus.field,
                keys.join(", ")
            ));
            None
        }
        _ => None,
    };
    let reader = stream.into_reader();
    match layout {
        Some(layout) => Ok(record_pieces(reader, source, &corpus.field, layout, notes)),
        None => lines::text_pieces(reader, source, corpus.split.as_deref(), notes),
    }
}

fn recognised(stream: &mut Stream, source: &Path, field: &str) -> Result<Recognised> {
    loop {
        let head = String::from_utf8_lossy(stream.head(source)?).into_owned();
        match recognise(&head, field) {
            Recognised::Unfinished if stream.can_grow() => {}
            recognised => return Ok(recognised),
        }
    }
}

fn missing(path: &Path, error: &std::io::Error) -> Problem {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Problem::io("read", path, error);
    }
    Problem::new(
        format!("no such file or folder: {}", path.display()),
        "check `data.corpora`; a corpus is a file of text, JSON records or Parquet, a folder of \
             those, or the \
         prefix of Megatron shards (PREFIX.bin and PREFIX.idx)",
    )
    .of(ProblemKind::Input)
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

/// Whether a file of a folder is read: Parquet, and what has no zero byte near its beginning once it is
/// unpacked. UTF-16 is text too, so that it is refused by name and not passed over.
fn is_text(path: &Path) -> Result<bool> {
    let Opened::Stream(mut stream) = packing::open(path, path)? else { return Ok(true) };
    let head = stream.head(path)?;
    let head = &head[..head.len().min(8192)];
    Ok(lines::is_utf16(head) || !head.contains(&0))
}
