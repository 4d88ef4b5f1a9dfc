//! Plain text and JSON lines as documents.

use crate::corpus::{Piece, Pieces};
use lingot_spec::problem::{Problem, Result};
use regex::Regex;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// A piece is cut once it has so many bytes, at the next place where no tokenizer joins two lines.
const PIECE_BYTES: usize = 32 << 10;
/// A piece is cut anywhere once it has so many bytes.
const LIMIT_BYTES: usize = 512 << 10;

/// Plain text: one document, or one for each line that matches `split`.
pub(crate) fn text_pieces(reader: Box<dyn BufRead>, path: &Path, split: Option<&str>) -> Result<Pieces> {
    let split = split.map(Regex::new).transpose().map_err(|e| {
        Problem::new(
            format!("`split` of corpus {} is not a regular expression: {e}", path.display()),
            "it is matched against each line; a line that matches begins a new document",
        )
    })?;
    let mut lines = Lines::new(reader, path, Some(LIMIT_BYTES));
    let mut cutter = Cutter::default();
    let mut ended = false;
    Ok(Box::new(std::iter::from_fn(move || {
        while !ended {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => {
                    ended = true;
                    return cutter.end().map(Ok);
                }
                Err(error) => {
                    ended = true;
                    return Some(Err(error));
                }
            };
            let begins =
                split.as_ref().is_some_and(|split| split.is_match(line.trim_end_matches(['\r', '\n'])));
            let piece = if begins { cutter.end() } else { None };
            let piece = piece.or(cutter.push(&line));
            if piece.is_some() {
                return piece.map(Ok);
            }
        }
        None
    })))
}

/// JSON lines: each line an object whose key `field` holds a document. Empty lines and empty texts are none.
pub(crate) fn json_pieces(reader: Box<dyn BufRead>, path: &Path, field: &str) -> Pieces {
    let (path, field) = (path.to_path_buf(), field.to_owned());
    let mut lines = Lines::new(reader, &path, None);
    let mut ready = VecDeque::new();
    let mut ended = false;
    Box::new(std::iter::from_fn(move || {
        loop {
            if let Some(piece) = ready.pop_front() {
                return Some(Ok(piece));
            }
            if ended {
                return None;
            }
            let parsed = match lines.next() {
                Ok(None) => return None,
                Ok(Some(line)) => parse_line(&line, &field)
                    .map_err(|problem| in_line(&path, lines.number, &problem, &field)),
                Err(error) => Err(error),
            };
            match parsed {
                Ok(text) => ready.extend(cut(text)),
                Err(error) => {
                    ended = true;
                    return Some(Err(error));
                }
            }
        }
    }))
}

/// The text under `field` of one JSON line; empty where the line is blank or the text null.
pub fn parse_line(line: &str, field: &str) -> std::result::Result<String, String> {
    if line.trim().is_empty() {
        return Ok(String::new());
    }
    let mut reader = serde_json::Deserializer::from_str(line);
    let found = FieldOf(field).deserialize(&mut reader).and_then(|found| reader.end().map(|()| found));
    match found.map_err(|e| format!("is not a JSON object: {e}"))? {
        Found::Text(text) => Ok(text),
        Found::Else(kind) => Err(format!("has {kind} under `{field}`, not text")),
        Found::Nothing(keys) if keys.is_empty() => Err(format!("has no `{field}`, and no other keys")),
        Found::Nothing(keys) => Err(format!("has no `{field}`; its keys are: {}", keys.join(", "))),
    }
}

/// A document as pieces; a blank one is no document.
pub(crate) fn cut(text: String) -> Vec<Piece> {
    if text.len() < PIECE_BYTES {
        return if text.trim().is_empty() { vec![] } else { vec![Piece { text, ends: true }] };
    }
    let mut cutter = Cutter::default();
    let mut pieces: Vec<Piece> = text.split_inclusive('\n').filter_map(|line| cutter.push(line)).collect();
    pieces.extend(cutter.end());
    pieces
}

fn in_line(path: &Path, number: u64, problem: &str, field: &str) -> Problem {
    Problem::new(
        format!("{}, line {number} {problem}", path.display()),
        format!(
            "each line is a JSON object with its text under `{field}`; `field` of the corpus names the key"
        ),
    )
}

/// Collects lines into pieces.
#[derive(Default)]
struct Cutter {
    pending: String,
    begun: bool,
}

impl Cutter {
    /// The piece that ended before `line`, if one did.
    fn push(&mut self, line: &str) -> Option<Piece> {
        let length = self.pending.len();
        let full = length >= LIMIT_BYTES || (length >= PIECE_BYTES && is_clean_cut(&self.pending, line));
        let piece = full.then(|| {
            self.begun = true;
            Piece { text: std::mem::take(&mut self.pending), ends: false }
        });
        self.pending.push_str(line);
        piece
    }

    /// The last piece of the document; none where the document is blank.
    fn end(&mut self) -> Option<Piece> {
        let text = std::mem::take(&mut self.pending);
        let begun = std::mem::take(&mut self.begun);
        (begun || !text.trim().is_empty()).then_some(Piece { text, ends: true })
    }
}

/// Whether pre-tokenizers part words here in any case, so that the tokens of the two pieces are those of the whole:
/// at a line end without blanks around it, and before one space at the beginning of a line.
fn is_clean_cut(before: &str, after: &str) -> bool {
    let is_blank = |text: &str| text.chars().next().is_none_or(char::is_whitespace);
    let Some(line) = before.strip_suffix('\n') else { return false };
    match after.strip_prefix(' ') {
        Some(after) => !is_blank(after),
        None => !line.ends_with(char::is_whitespace) && !is_blank(after),
    }
}

/// Lines of UTF-8 with their numbers; no line is longer than `limit` when there is one.
struct Lines {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    limit: Option<usize>,
    /// Bytes before the next line.
    offset: u64,
    number: u64,
    /// The first bytes of a character that the limit cut in two.
    carried: Vec<u8>,
}

impl Lines {
    fn new(reader: Box<dyn BufRead>, path: &Path, limit: Option<usize>) -> Lines {
        Lines { reader, path: path.into(), limit, offset: 0, number: 0, carried: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<String>> {
        let mut bytes = std::mem::take(&mut self.carried);
        let most = self.limit.map_or(u64::MAX, |limit| limit as u64);
        let read = self.reader.by_ref().take(most).read_until(b'\n', &mut bytes);
        read.map_err(|e| unreadable(&self.path, &e))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let length = bytes.len() as u64;
        let mut line = match String::from_utf8(bytes) {
            Ok(line) => line,
            Err(error) => self.repair(error)?,
        };
        if self.offset == 0 && line.starts_with('\u{feff}') {
            line.drain(..'\u{feff}'.len_utf8());
        }
        self.offset += length - self.carried.len() as u64;
        Ok(Some(line))
    }

    /// A character cut by the limit is carried over; any other fault is an error.
    fn repair(&mut self, error: std::string::FromUtf8Error) -> Result<String> {
        let valid = error.utf8_error().valid_up_to();
        let cut_by_limit = error.utf8_error().error_len().is_none()
            && self.limit.is_some_and(|limit| error.as_bytes().len() >= limit);
        let mut bytes = error.into_bytes();
        if cut_by_limit {
            self.carried = bytes.split_off(valid);
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        Err(Problem::new(
            format!(
                "{} is not UTF-8: byte {:#04x} at offset {} (line {})",
                self.path.display(),
                bytes[valid],
                self.offset + valid as u64,
                self.number
            ),
            "convert it, for example with `iconv -f LATIN1 -t UTF-8`, or leave it out of the corpus",
        ))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    let packed = path.extension().is_some_and(|end| end == "gz" || end == "zst");
    if !packed {
        return Problem::io("read", path, error);
    }
    Problem::new(
        format!("{} is truncated or corrupt: {error}", path.display()),
        "fetch the file again; `gzip -t` or `zstd -t` tells whether it is whole",
    )
}

enum Found {
    Text(String),
    /// What is there instead of a text.
    Else(&'static str),
    /// The keys that are there instead.
    Nothing(Vec<String>),
}

/// Reads one key of an object and skips over the rest without building it.
struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Found;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Found, A::Error> {
        let mut found = None;
        let mut keys = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Some(kind_of(map.next_value::<serde_json::Value>()?));
            } else {
                map.next_value::<IgnoredAny>()?;
                if keys.len() < 20 {
                    keys.push(key);
                }
            }
        }
        Ok(found.unwrap_or(Found::Nothing(keys)))
    }
}

fn kind_of(value: serde_json::Value) -> Found {
    use serde_json::Value;
    match value {
        Value::String(text) => Found::Text(text),
        Value::Null => Found::Text(String::new()),
        Value::Bool(_) => Found::Else("true or false"),
        Value::Number(_) => Found::Else("a number"),
        Value::Array(_) => Found::Else("a list"),
        Value::Object(_) => Found::Else("an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pieces: Pieces) -> Vec<String> {
        let mut documents = vec![String::new()];
        for piece in pieces {
            let piece = piece.unwrap();
            documents.last_mut().unwrap().push_str(&piece.text);
            if piece.ends {
                documents.push(String::new());
            }
        }
        assert_eq!(documents.pop().unwrap(), "", "the last piece ends its document");
        documents
    }

    fn reader(text: &str) -> Box<dyn BufRead> {
        Box::new(std::io::Cursor::new(text.to_owned().into_bytes()))
    }

    #[test]
    fn pieces_joined_are_the_document_however_long_its_lines() {
        let prose = "Some words, and then some more.\nNext line\n\n  indented\n".repeat(20_000);
        let line = "a word in a line without end, with a snowman \u{2603}; ".repeat(200_000);
        for text in [prose, line] {
            let pieces: Vec<_> = text_pieces(reader(&text), Path::new("x"), None).unwrap().collect();
            assert!(pieces.len() > 1);
            assert!(pieces.iter().all(|piece| piece.as_ref().unwrap().text.len() <= 2 * LIMIT_BYTES));
            assert_eq!(whole(Box::new(pieces.into_iter())), std::slice::from_ref(&text));
            assert_eq!(whole(Box::new(cut(text.clone()).into_iter().map(Ok))), [text]);
        }
    }

    #[test]
    fn a_line_that_matches_begins_a_document_and_stays_in_it() {
        let text = "preface\n# one\nbody\n# two\n\n# three";
        let documents = whole(text_pieces(reader(text), Path::new("x"), Some("^# ")).unwrap());
        assert_eq!(documents, ["preface\n", "# one\nbody\n", "# two\n\n", "# three"]);
        assert!(whole(text_pieces(reader("\n \n"), Path::new("x"), None).unwrap()).is_empty());
    }
}
