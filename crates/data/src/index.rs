//! The `.idx` of Megatron's indexed dataset: where each sequence lies in the `.bin`, and which sequences form
//! a document.

use crate::files::{FileRecord, HashedFile};
use crate::place::Place;
use lingot_spec::problem::Result;
use std::io;
use std::path::Path;

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
/// Magic, version, token type, sequence count, document count.
const HEADER_BYTES: usize = 9 + 8 + 1 + 8 + 8;
/// Token positions are kept in memory for every 64th sequence.
pub(crate) const STRIDE: usize = 64;
/// Entries that are read at once while an index is checked.
const CHUNK: usize = 1 << 16;

/// How a token is stored. The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    U8 = 1,
    I8 = 2,
    I16 = 3,
    I32 = 4,
    I64 = 5,
    U16 = 8,
}

impl Stored {
    /// The narrowest type that Megatron itself would choose.
    pub(crate) fn of_vocabulary(vocabulary: u32) -> Stored {
        if vocabulary <= 1 << 16 { Stored::U16 } else { Stored::I32 }
    }

    fn of_code(code: u8) -> Option<Stored> {
        [Stored::U8, Stored::I8, Stored::I16, Stored::I32, Stored::I64, Stored::U16]
            .into_iter()
            .find(|stored| *stored as u8 == code)
    }

    /// Bytes of one token.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Stored::U8 | Stored::I8 => 1,
            Stored::I16 | Stored::U16 => 2,
            Stored::I32 => 4,
            Stored::I64 => 8,
        }
    }

    /// The token in these bytes, which are little-endian.
    pub(crate) fn read(self, bytes: &[u8]) -> i64 {
        let unsigned = bytes.iter().rev().fold(0_u64, |value, &byte| (value << 8) | u64::from(byte));
        match self {
            Stored::U8 | Stored::U16 | Stored::I64 => unsigned as i64,
            Stored::I8 => i64::from(unsigned as i8),
            Stored::I16 => i64::from(unsigned as i16),
            Stored::I32 => i64::from(unsigned as i32),
        }
    }
}

/// Writes an `.idx`. `pointers` holds the first byte of each sequence in the `.bin`; `documents` the first
/// sequence of each document, and after the last document the number of sequences.
pub(crate) fn write_index(
    path: &Path,
    stored: Stored,
    lengths: &[i32],
    pointers: impl Iterator<Item = i64>,
    documents: &[i64],
) -> Result<FileRecord> {
    let mut file = HashedFile::create(path)?;
    file.write(MAGIC)?;
    file.write(&VERSION.to_le_bytes())?;
    file.write(&[stored as u8])?;
    file.write(&(lengths.len() as u64).to_le_bytes())?;
    file.write(&(documents.len() as u64).to_le_bytes())?;
    for length in lengths {
        file.write(&length.to_le_bytes())?;
    }
    for pointer in pointers {
        file.write(&pointer.to_le_bytes())?;
    }
    for document in documents {
        file.write(&document.to_le_bytes())?;
    }
    file.finish()
}

/// The contents of an `.idx`, which were checked against the size of the `.bin`.
pub(crate) struct Layout {
    pub stored: Stored,
    pub sequences: usize,
    pub documents: usize,
    pub tokens: u64,
    /// Tokens before every `STRIDE`-th sequence.
    pub before: Vec<u64>,
}

/// Where a sequence lies in the `.bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub tokens: i32,
    /// Its first byte.
    pub pointer: i64,
}

/// Why an `.idx` cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// The system does not give its bytes.
    Unread(io::Error),
    /// What is wrong with it: a clause that follows the name of the file.
    Wrong(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Unusable {
        Unusable::Unread(error)
    }
}

impl From<String> for Unusable {
    fn from(problem: String) -> Unusable {
        Unusable::Wrong(problem)
    }
}

impl Layout {
    /// Reads an `.idx` beside a `.bin` of `bin_bytes`, in bounded memory.
    pub(crate) fn read(index: &Place<'_>, bin_bytes: u64) -> std::result::Result<Layout, Unusable> {
        let bytes = index.len()?;
        let mut header = [0; HEADER_BYTES];
        let is_long = bytes >= HEADER_BYTES as u64;
        if is_long {
            index.read(0, &mut header)?;
        }
        if !is_long || &header[..9] != MAGIC {
            let problem = format!("is not a Megatron index: its {bytes} bytes do not begin with MMIDIDX");
            return Err(problem.into());
        }
        let version = u64_at(&header, 9);
        if version != VERSION {
            return Err(format!("has version {version}; Lingot reads version {VERSION}").into());
        }
        let code = header[17];
        let stored = Stored::of_code(code)
            .ok_or_else(|| format!("stores tokens as type {code}; Lingot reads types 1 to 5 and 8"))?;
        let (sequences, documents) = (u64_at(&header, 18), u64_at(&header, 26));
        let needed = HEADER_BYTES as u128 + 12 * u128::from(sequences) + 8 * u128::from(documents);
        // Newer multimodal sets add a byte per sequence.
        if ![needed, needed + u128::from(sequences)].contains(&u128::from(bytes)) {
            let problem = format!(
                "has {bytes} bytes, but {sequences} sequences and {documents} document bounds need {needed}"
            );
            return Err(problem.into());
        }
        if documents == 0 {
            return Err("has no document bounds".to_owned().into());
        }
        let mut layout = Layout {
            stored,
            sequences: sequences as usize,
            documents: documents as usize - 1,
            tokens: 0,
            before: Vec::with_capacity(sequences as usize / STRIDE + 1),
        };
        layout.check_sequences(index, bin_bytes)?;
        layout.check_documents(index)?;
        Ok(layout)
    }

    fn check_sequences(&mut self, index: &Place<'_>, bin_bytes: u64) -> std::result::Result<(), Unusable> {
        let width = self.stored.bytes() as u64;
        for first in (0..self.sequences).step_by(CHUNK) {
            let rows = self.rows(index, first, CHUNK)?;
            for (sequence, Row { tokens, pointer }) in (first..).zip(rows) {
                if sequence % STRIDE == 0 {
                    self.before.push(self.tokens);
                }
                let end = i128::from(pointer) + i128::from(tokens) * i128::from(width);
                if tokens < 0 || pointer < 0 || end > i128::from(bin_bytes) {
                    let problem = format!(
                        "puts {tokens} tokens of sequence {sequence} at byte {pointer} of a .bin of \
                         {bin_bytes} bytes"
                    );
                    return Err(problem.into());
                }
                self.tokens += tokens as u64;
            }
        }
        // Else a small .bin could stand for any number of tokens.
        if u128::from(self.tokens) * u128::from(width) > u128::from(bin_bytes) {
            let problem = format!(
                "has sequences that overlap: they hold {} tokens, the .bin of {bin_bytes} bytes has {}",
                self.tokens,
                bin_bytes / width
            );
            return Err(problem.into());
        }
        Ok(())
    }

    fn check_documents(&self, index: &Place<'_>) -> std::result::Result<(), Unusable> {
        let mut last = 0;
        for first in (0..=self.documents).step_by(CHUNK) {
            for (document, bound) in (first..).zip(self.bounds(index, first, CHUNK)?) {
                let fits = if document == 0 { bound == 0 } else { bound >= last && bound <= self.sequences };
                if !fits || (document == self.documents && bound != self.sequences) {
                    let problem = format!(
                        "has bound {bound} for document {document} of {}, with {} sequences in all",
                        self.documents, self.sequences
                    );
                    return Err(problem.into());
                }
                last = bound;
            }
        }
        Ok(())
    }

    /// Up to `count` sequences from `first` on.
    pub(crate) fn rows(&self, index: &Place<'_>, first: usize, count: usize) -> io::Result<Vec<Row>> {
        let count = count.min(self.sequences - first);
        let lengths = index.numbers::<4>((HEADER_BYTES + 4 * first) as u64, count)?;
        let pointers = (HEADER_BYTES + 4 * self.sequences + 8 * first) as u64;
        let pointers = index.numbers::<8>(pointers, count)?;
        let row = |(tokens, pointer)| Row {
            tokens: i32::from_le_bytes(tokens),
            pointer: i64::from_le_bytes(pointer),
        };
        Ok(lengths.into_iter().zip(pointers).map(row).collect())
    }

    /// The first sequence of up to `count` documents from `first` on; of the document after the last one, the
    /// number of sequences.
    pub(crate) fn bounds(&self, index: &Place<'_>, first: usize, count: usize) -> io::Result<Vec<usize>> {
        let count = count.min(self.documents + 1 - first);
        let at = HEADER_BYTES + 12 * self.sequences + 8 * first;
        let bounds = index.numbers::<8>(at as u64, count)?;
        Ok(bounds.into_iter().map(|bound| u64::from_le_bytes(bound) as usize).collect())
    }

    /// The first document that begins at `sequence` or after it.
    pub(crate) fn document_from(&self, index: &Place<'_>, sequence: usize) -> io::Result<usize> {
        let (mut low, mut high) = (0, self.documents);
        while low < high {
            let middle = low.midpoint(high);
            match self.bounds(index, middle, 1)?.first() {
                Some(&bound) if bound < sequence => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
