//! Plain text as documents, and files as lines.

use crate::document::{Cutter, LIMIT_BYTES, Notes, Pieces};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use regex::Regex;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// Plain text: one document, or one for each line that matches `split`.
pub(crate) fn text_pieces(
    reader: Box<dyn BufRead>,
    path: &Path,
    split: Option<&str>,
    notes: Notes,
) -> Result<Pieces> {
    let split = split.map(Regex::new).transpose().map_err(|e| {
        Problem::new(
            format!("`split` of corpus {} is not a regular expression: {e}", path.display()),
            "give an expression that matches the first line of each document",
        )
        .of(ProblemKind::Input)
    })?;
    let mut lines = Lines::new(reader, path, Some(LIMIT_BYTES));
    let mut cutter = Cutter::default();
    let mut has_ended = false;
    let next = move || {
        while !has_ended {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => {
                    has_ended = true;
                    return cutter.end().map(Ok);
                }
                Err(error) => {
                    has_ended = true;
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
    };
    Ok(Pieces::new(notes, std::iter::from_fn(next)))
}

/// Lines of UTF-8 with their numbers. Where there is a limit, a longer line comes in parts.
pub(crate) struct Lines {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    /// Most bytes of a line.
    limit: Option<usize>,
    /// Bytes before the next line.
    offset: u64,
    /// The number of the last line, counted from 1.
    pub(crate) number: u64,
    /// Whether the last part ended before the end of its line.
    is_inside: bool,
    /// The first bytes of a character that the limit cut in two.
    carried: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(reader: Box<dyn BufRead>, path: &Path, limit: Option<usize>) -> Lines {
        Lines {
            reader,
            path: path.into(),
            limit,
            offset: 0,
            number: 0,
            is_inside: false,
            carried: Vec::new(),
        }
    }

    /// The next line with its line end; none after the last.
    pub(crate) fn next(&mut self) -> Result<Option<String>> {
        let mut bytes = std::mem::take(&mut self.carried);
        let most = self.limit.map_or(u64::MAX, |limit| limit as u64);
        let read = self.reader.by_ref().take(most).read_until(b'\n', &mut bytes);
        read.map_err(|e| unreadable(&self.path, &e))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += u64::from(!self.is_inside);
        self.is_inside = bytes.last() != Some(&b'\n');
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
        if self.offset == 0 && is_utf16(&bytes) {
            return Err(Problem::new(
                format!("{} is UTF-16, not UTF-8", self.path.display()),
                "convert it, for example with `iconv -f UTF-16 -t UTF-8`, or leave it out of the corpus",
            )
            .of(ProblemKind::Input));
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
        )
        .of(ProblemKind::Input))
    }
}

/// Whether a file begins with the byte-order mark of UTF-16.
pub(crate) fn is_utf16(head: &[u8]) -> bool {
    head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff])
}

/// The error for a file that cannot be read or unpacked.
pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    if let Some(problem) = error.get_ref().and_then(|inner| inner.downcast_ref::<Problem>()) {
        return problem.clone();
    }
    // Faults of the system have numbers, those of the decoders have none.
    if error.raw_os_error().is_some() {
        return Problem::io("read", path, error);
    }
    Problem::new(
        format!("{} is truncated or corrupt: {error}", path.display()),
        "fetch the file again; `gzip -t` or `zstd -t` tells whether it is whole",
    )
    .of(ProblemKind::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Piece, cut};

    fn whole(pieces: impl Iterator<Item = Result<Piece>>) -> Vec<String> {
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
            let pieces: Vec<_> =
                text_pieces(reader(&text), Path::new("x"), None, Notes::default()).unwrap().collect();
            assert!(pieces.len() > 1);
            assert!(pieces.iter().all(|piece| piece.as_ref().unwrap().text.len() <= 2 * LIMIT_BYTES));
            assert_eq!(whole(pieces.into_iter()), std::slice::from_ref(&text));
            assert_eq!(whole(cut(text.clone()).into_iter().map(Ok)), [text]);
        }
    }

    #[test]
    fn a_line_that_matches_begins_a_document_and_stays_in_it() {
        let text = "preface\n# one\nbody\n# two\n\n# three";
        let documents =
            whole(text_pieces(reader(text), Path::new("x"), Some("^# "), Notes::default()).unwrap());
        assert_eq!(documents, ["preface\n", "# one\nbody\n", "# two\n\n", "# three"]);
        assert!(
            whole(text_pieces(reader("\n \n"), Path::new("x"), None, Notes::default()).unwrap()).is_empty()
        );
    }
}
