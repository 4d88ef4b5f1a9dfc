//! Documents as pieces: text in bounded memory, cut where no tokenizer joins two lines.

use lingot_spec::problem::Result;
use std::cell::RefCell;
use std::rc::Rc;

/// A piece is cut once it has this many bytes, at the next place where no tokenizer joins two lines.
pub(crate) const PIECE_BYTES: usize = 32 << 10;
/// A piece is cut anywhere once it has this many bytes.
pub(crate) const LIMIT_BYTES: usize = 512 << 10;

/// A part of a document. Long documents come in several pieces, in order, so that a file of any size fits in
/// memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text of this part.
    pub text: String,
    /// The document ends with this piece.
    pub ends: bool,
}

/// The pieces of one source, in order.
pub struct Pieces {
    pieces: Box<dyn Iterator<Item = Result<Piece>>>,
    notes: Notes,
}

impl Pieces {
    pub(crate) fn new(notes: Notes, pieces: impl Iterator<Item = Result<Piece>> + 'static) -> Pieces {
        Pieces { pieces: Box::new(pieces), notes }
    }

    /// What the user should know of the source, each note a sentence. Complete once all pieces were read.
    pub fn notes(&self) -> Vec<String> {
        self.notes.0.borrow().clone()
    }
}

impl Iterator for Pieces {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        self.pieces.next()
    }
}

/// Notes of a source, which grow while it is read.
#[derive(Clone, Default)]
pub(crate) struct Notes(Rc<RefCell<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: String) {
        self.0.borrow_mut().push(note);
    }
}

/// Cuts a document into pieces; a blank document gives none.
pub(crate) fn cut(text: String) -> Vec<Piece> {
    if text.len() < PIECE_BYTES {
        return if text.trim().is_empty() { vec![] } else { vec![Piece { text, ends: true }] };
    }
    let mut cutter = Cutter::default();
    let mut pieces: Vec<Piece> = text.split_inclusive('\n').filter_map(|line| cutter.push(line)).collect();
    pieces.extend(cutter.end());
    pieces
}

/// Collects lines into pieces.
#[derive(Default)]
pub(crate) struct Cutter {
    pending: String,
    begun: bool,
}

impl Cutter {
    /// Adds a line; returns the piece that ended before it, if one did.
    pub(crate) fn push(&mut self, line: &str) -> Option<Piece> {
        let length = self.pending.len();
        let full = length >= LIMIT_BYTES || (length >= PIECE_BYTES && is_clean_cut(&self.pending, line));
        let piece = full.then(|| {
            self.begun = true;
            Piece { text: std::mem::take(&mut self.pending), ends: false }
        });
        self.pending.push_str(line);
        piece
    }

    /// Ends the document; returns its last piece, or none where the document is blank.
    pub(crate) fn end(&mut self) -> Option<Piece> {
        let text = std::mem::take(&mut self.pending);
        let begun = std::mem::take(&mut self.begun);
        (begun || !text.trim().is_empty()).then_some(Piece { text, ends: true })
    }
}

/// Whether every pre-tokenizer splits words here, so that the tokens of the two pieces are those of the
/// whole: at a line end without blanks around it, and before a single space at the beginning of a line.
fn is_clean_cut(before: &str, after: &str) -> bool {
    let is_blank = |text: &str| text.chars().next().is_none_or(char::is_whitespace);
    let Some(line) = before.strip_suffix('\n') else { return false };
    match after.strip_prefix(' ') {
        Some(after) => !is_blank(after),
        None => !line.ends_with(char::is_whitespace) && !is_blank(after),
    }
}
