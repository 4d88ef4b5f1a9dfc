//! The `.idx` of Megatron's indexed dataset: where each sequence lies in the `.bin`, and which sequences form
//! a document.

use crate::files::{FileRecord, HashedFile};
use lingot_spec::problem::Result;
use std::path::Path;

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
/// Magic, version, token type, sequence count, document count.
const HEADER_BYTES: usize = 9 + 8 + 1 + 8 + 8;
/// Token positions are kept in memory for every 64th sequence.
pub(crate) const STRIDE: usize = 64;

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

impl Layout {
    /// Reads an `.idx` beside a `.bin` of `bin_bytes`. Errors with a clause that follows the name of the
    /// file.
    pub(crate) fn read(index: &[u8], bin_bytes: u64) -> std::result::Result<Layout, String> {
        if index.len() < HEADER_BYTES || &index[..9] != MAGIC {
            return Err(format!(
                "is not a Megatron index: its {} bytes do not begin with MMIDIDX",
                index.len()
            ));
        }
        let version = u64_at(index, 9);
        if version != VERSION {
            return Err(format!("has version {version}; Lingot reads version {VERSION}"));
        }
        let stored = Stored::of_code(index[17])
            .ok_or_else(|| format!("stores tokens as type {}; Lingot reads types 1 to 5 and 8", index[17]))?;
        let (sequences, documents) = (u64_at(index, 18), u64_at(index, 26));
        let needed = HEADER_BYTES as u128 + 12 * u128::from(sequences) + 8 * u128::from(documents);
        // Newer multimodal sets add a byte per sequence.
        if ![needed, needed + u128::from(sequences)].contains(&(index.len() as u128)) {
            return Err(format!(
                "has {} bytes, but {sequences} sequences and {documents} document bounds need {needed}",
                index.len()
            ));
        }
        if documents == 0 {
            return Err("has no document bounds".into());
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

    fn check_sequences(&mut self, index: &[u8], bin_bytes: u64) -> std::result::Result<(), String> {
        for sequence in 0..self.sequences {
            if sequence % STRIDE == 0 {
                self.before.push(self.tokens);
            }
            let (length, pointer) = (self.length(index, sequence), self.pointer(index, sequence));
            let end = i128::from(pointer) + i128::from(length) * self.stored.bytes() as i128;
            if length < 0 || pointer < 0 || end > i128::from(bin_bytes) {
                return Err(format!(
                    "puts {length} tokens of sequence {sequence} at byte {pointer} of a .bin of \
                     {bin_bytes} bytes"
                ));
            }
            self.tokens += length as u64;
        }
        Ok(())
    }

    fn check_documents(&self, index: &[u8]) -> std::result::Result<(), String> {
        let mut last = 0;
        for document in 0..=self.documents {
            let bound = self.document(index, document);
            let fits = if document == 0 { bound == 0 } else { bound >= last && bound <= self.sequences };
            if !fits || (document == self.documents && bound != self.sequences) {
                return Err(format!(
                    "has bound {bound} for document {document} of {}, with {} sequences in all",
                    self.documents, self.sequences
                ));
            }
            last = bound;
        }
        Ok(())
    }

    /// Tokens of a sequence.
    pub(crate) fn length(&self, index: &[u8], sequence: usize) -> i32 {
        let mut four = [0; 4];
        four.copy_from_slice(&index[HEADER_BYTES + 4 * sequence..][..4]);
        i32::from_le_bytes(four)
    }

    /// The first byte of a sequence in the `.bin`.
    pub(crate) fn pointer(&self, index: &[u8], sequence: usize) -> i64 {
        u64_at(index, HEADER_BYTES + 4 * self.sequences + 8 * sequence) as i64
    }

    /// The first sequence of a document; of the document after the last one, the number of sequences.
    pub(crate) fn document(&self, index: &[u8], document: usize) -> usize {
        u64_at(index, HEADER_BYTES + 12 * self.sequences + 8 * document) as usize
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
