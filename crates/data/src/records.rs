//! JSON objects as documents: one on each line (JSON Lines), or spread over lines and inside a list.

use crate::document::{LIMIT_BYTES, Notes, Piece, Pieces, cut};
use crate::field::{Found, find, parse_line};
use crate::lines::Lines;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::collections::VecDeque;
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// The longest record that is read, in bytes. It is in memory several times while it is parsed.
const LONGEST_BYTES: usize = 128 << 20;

/// How the objects of a file lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One on each line.
    Lines,
    /// Anywhere: over several lines, several on a line, in a list.
    Spread,
}

/// Each object's text under `field` is a document. Blank lines and blank texts give none.
pub(crate) fn record_pieces(
    reader: Box<dyn BufRead>,
    path: &Path,
    field: &str,
    layout: Layout,
    notes: Notes,
) -> Pieces {
    // Spread objects may all lie on one line, which then comes in parts.
    let limit = if layout == Layout::Spread { LIMIT_BYTES } else { LONGEST_BYTES };
    let lines = Lines::new(reader, path, Some(limit));
    let mut records = Records {
        lines,
        layout,
        line: String::new(),
        at: 0,
        path: path.into(),
        field: field.into(),
        ready: VecDeque::new(),
        lone_surrogates: 0,
        first_lone: 0,
        notes: notes.clone(),
        has_ended: false,
    };
    Pieces::new(notes, std::iter::from_fn(move || records.next().transpose()))
}

/// The records of a file, and the pieces of the last one.
struct Records {
    lines: Lines,
    layout: Layout,
    /// The current line of spread objects, and the first of its bytes that was not used.
    line: String,
    at: usize,
    path: PathBuf,
    field: String,
    ready: VecDeque<Piece>,
    lone_surrogates: u64,
    /// The line of the first of them.
    first_lone: u64,
    notes: Notes,
    has_ended: bool,
}

impl Records {
    fn next(&mut self) -> Result<Option<Piece>> {
        while self.ready.is_empty() && !self.has_ended {
            // Nothing is read after an error.
            self.has_ended = true;
            let Some((number, record)) = self.record()? else {
                self.finish();
                break;
            };
            let parsed = parse_line(&record, &self.field).map_err(|problem| self.wrong(number, &problem))?;
            if parsed.lone_surrogates > 0 && self.lone_surrogates == 0 {
                self.first_lone = number;
            }
            self.lone_surrogates += parsed.lone_surrogates;
            self.ready.extend(cut(parsed.text));
            self.has_ended = false;
        }
        Ok(self.ready.pop_front())
    }

    /// The next record, and the line it begins in.
    fn record(&mut self) -> Result<Option<(u64, String)>> {
        if self.layout == Layout::Lines {
            let line = self.lines.next()?;
            return line.map(|line| self.checked(self.lines.number, line)).transpose();
        }
        if !self.skip_between()? {
            return Ok(None);
        }
        let number = self.lines.number;
        let (mut record, mut scan) = (String::new(), Scan::default());
        loop {
            let rest = &self.line[self.at..];
            let end = scan.end_of_object(rest.as_bytes());
            record.push_str(&rest[..end.unwrap_or(rest.len())]);
            self.at += end.unwrap_or(rest.len());
            (_, record) = self.checked(number, record)?;
            // What begins with no brace is no object either; its parser says what is wrong with it.
            if end.is_some() || !record.starts_with('{') || !self.next_line()? {
                return Ok(Some((number, record)));
            }
        }
    }

    /// Errors if a record is too long to be parsed.
    fn checked(&self, number: u64, record: String) -> Result<(u64, String)> {
        // A part of a line is a little shorter than the limit where a character would be cut.
        if record.len() + 4 <= LONGEST_BYTES {
            return Ok((number, record));
        }
        Err(Problem::new(
            format!("{}, line {number} is longer than {LONGEST_BYTES} bytes", self.path.display()),
            "divide the record, or give its text as a file of plain text, whose lines may be of any length",
        )
        .of(ProblemKind::Input))
    }

    /// Passes over what lies between objects; false at the end of the file.
    fn skip_between(&mut self) -> Result<bool> {
        loop {
            let rest = &self.line[self.at..];
            let next = rest.trim_start_matches(['[', ',', ']', ' ', '\t', '\r', '\n', '\u{feff}']);
            self.at += rest.len() - next.len();
            if !next.is_empty() {
                return Ok(true);
            }
            if !self.next_line()? {
                return Ok(false);
            }
        }
    }

    fn next_line(&mut self) -> Result<bool> {
        let line = self.lines.next()?;
        let is_there = line.is_some();
        (self.line, self.at) = (line.unwrap_or_default(), 0);
        Ok(is_there)
    }

    fn finish(&self) {
        if self.lone_surrogates > 0 {
            self.notes.add(format!(
                "{}: {} halves of surrogate pairs were read as U+FFFD, the first in line {}",
                self.path.display(),
                self.lone_surrogates,
                self.first_lone
            ));
        }
    }

    fn wrong(&self, number: u64, problem: &str) -> Problem {
        let field = &self.field;
        Problem::new(
            format!("{}, line {number} {problem}", self.path.display()),
            format!("each record is a JSON object with its text under `{field}`; `field` names another key"),
        )
        .of(ProblemKind::Input)
    }
}

/// What the beginning of a file shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recognised {
    /// No records.
    Text,
    /// Records with a text under the field.
    Records(Layout),
    /// Records, but the first has no such field; these are its keys.
    Lookalike(Vec<String>),
    /// The first record goes on after the head.
    Unfinished,
}

/// Looks at the beginning of a file for records with `field`.
pub(crate) fn recognise(head: &str, field: &str) -> Recognised {
    let head = head.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let in_list = head.strip_prefix('[').map(str::trim_start);
    let objects = in_list.unwrap_or(head);
    if !objects.starts_with('{') {
        return Recognised::Text;
    }
    let Some(end) = Scan::default().end_of_object(objects.as_bytes()) else { return Recognised::Unfinished };
    let (first, rest) = objects.split_at(end);
    let Ok((found, _)) = find(first, field) else { return Recognised::Text };
    let layout = layout(in_list.is_some(), first, rest);
    match (found, layout) {
        (Found::Text(_) | Found::Else(_), Some(layout)) => Recognised::Records(layout),
        // One object over several lines is ordinary JSON, such as a package.json.
        (Found::Nothing(keys), Some(Layout::Lines)) => Recognised::Lookalike(keys),
        (Found::Nothing(keys), Some(Layout::Spread)) if in_list.is_some() => Recognised::Lookalike(keys),
        _ => Recognised::Text,
    }
}

/// How objects follow on the first; none where something else follows.
fn layout(in_list: bool, first: &str, rest: &str) -> Option<Layout> {
    if in_list {
        let after = rest.trim_start();
        return (after.is_empty() || after.starts_with([',', ']'])).then_some(Layout::Spread);
    }
    let is_object = |line: &str| line.trim_start_matches(['\u{feff}', ' ', '\t']).starts_with('{');
    let same_line = rest.split('\n').next().unwrap_or_default().trim();
    if first.contains('\n') || same_line.starts_with('{') {
        let after = rest.trim_start();
        return (after.is_empty() || after.starts_with('{')).then_some(Layout::Spread);
    }
    let mut lines = rest.lines().filter(|line| !line.trim().is_empty());
    lines.all(is_object).then_some(Layout::Lines)
}

/// Finds the end of an object by its braces and strings, over as many parts as it comes in.
#[derive(Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    is_escaped: bool,
}

impl Scan {
    /// The byte after the object that these bytes complete.
    fn end_of_object(&mut self, bytes: &[u8]) -> Option<usize> {
        for (place, byte) in bytes.iter().enumerate() {
            match (byte, self.in_string) {
                (_, true) if self.is_escaped => self.is_escaped = false,
                (b'\\', true) => self.is_escaped = true,
                (b'"', _) => self.in_string = !self.in_string,
                (b'{' | b'[', false) => self.depth += 1,
                (b'}' | b']', false) => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(place + 1);
                    }
                }
                // JSON has no line end inside a string: what follows is text, or a broken record.
                (b'\n', true) => self.in_string = false,
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_text_by_what_they_are() {
        let recognised = |head: &str| recognise(head, "text");
        for head in [
            "{\"text\": \"a\"}\n{\"text\": \"b\"}\n",
            "\u{feff}\n {\"id\": NaN, \"text\": \"a\"}",
            "{\"text\": null}\n\n{\"text\": \"cut off here",
            "{\"text\": 3}\n",
        ] {
            assert_eq!(recognised(head), Recognised::Records(Layout::Lines), "{head}");
        }
        for head in [
            "[{\"text\": \"a\"},\n {\"text\": \"b\"}]",
            "{\n  \"text\": \"a\"\n}\n{\n",
            "{\"text\": \"}\"}{\"text\": \"b\"}",
        ] {
            assert_eq!(recognised(head), Recognised::Records(Layout::Spread), "{head}");
        }
        for head in [
            "",
            "Once",
            "[1, 2]",
            "{ int x; }\n",
            "{% if text %}\n",
            "{\n \"name\": \"x\"\n}\n",
            "{\"text\": \"a\"}\nprose",
        ] {
            assert_eq!(recognised(head), Recognised::Text, "{head}");
        }
        let keys = Recognised::Lookalike(vec!["body".into()]);
        assert_eq!(recognised("{\"body\": \"a\"}\n{\"body\": \"b\"}\n"), keys);
        assert_eq!(recognised("[{\"body\": \"a\"}]"), keys);
        assert_eq!(recognised("{\"raw\": \"long"), Recognised::Unfinished);
    }
}
