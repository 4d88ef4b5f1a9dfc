//! Megatron's indexed dataset: tokens in a `.bin`, where each sequence lies and which documents they form in an
//! `.idx`. Both are mapped into memory, never read whole.

use crate::files::{FileRecord, HashedFile};
use filebuffer::FileBuffer;
use lingot_spec::problem::{Problem, Result};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
/// Magic, version, token type, sequence count, document count.
const HEADER_BYTES: usize = 9 + 8 + 1 + 8 + 8;
/// Token positions are remembered for every so many sequences.
const STRIDE: usize = 64;

/// How a token is stored; the numbers are the format's.
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

    pub(crate) fn bytes(self) -> usize {
        match self {
            Stored::U8 | Stored::I8 => 1,
            Stored::I16 | Stored::U16 => 2,
            Stored::I32 => 4,
            Stored::I64 => 8,
        }
    }

    fn read(self, bytes: &[u8]) -> i64 {
        let unsigned = bytes.iter().rev().fold(0_u64, |value, &byte| (value << 8) | u64::from(byte));
        match self {
            Stored::U8 | Stored::U16 | Stored::I64 => unsigned as i64,
            Stored::I8 => i64::from(unsigned as i8),
            Stored::I16 => i64::from(unsigned as i16),
            Stored::I32 => i64::from(unsigned as i32),
        }
    }
}

/// Writes shards document by document.
pub struct ShardWriter {
    prefix: PathBuf,
    bin: HashedFile,
    stored: Stored,
    lengths: Vec<i32>,
    documents: Vec<i64>,
    /// Tokens of the sequence that is being written.
    pending: i32,
    tokens: u64,
}

impl ShardWriter {
    /// `PREFIX.bin` and `PREFIX.idx` for tokens below `vocabulary`.
    pub fn create(prefix: &Path, vocabulary: u32) -> Result<ShardWriter> {
        let bin = HashedFile::create(&with_end(prefix, "bin"))?;
        let stored = Stored::of_vocabulary(vocabulary);
        Ok(ShardWriter {
            prefix: prefix.into(),
            bin,
            stored,
            lengths: vec![],
            documents: vec![0],
            pending: 0,
            tokens: 0,
        })
    }

    /// Appends to the current document.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        let mut bytes = Vec::with_capacity(tokens.len() * self.stored.bytes());
        for &token in tokens {
            bytes.extend_from_slice(&token.to_le_bytes()[..self.stored.bytes()]);
            if self.pending == i32::MAX {
                // The format counts a sequence's tokens in 31 bits; the document goes on in another.
                self.lengths.push(std::mem::take(&mut self.pending));
            }
            self.pending += 1;
        }
        self.tokens += tokens.len() as u64;
        self.bin.write(&bytes)
    }

    pub fn end_document(&mut self) {
        self.lengths.push(std::mem::take(&mut self.pending));
        self.documents.push(self.lengths.len() as i64);
    }

    /// Completes both files. What follows the last `end_document` is a document too.
    pub fn finish(self) -> Result<()> {
        self.finish_recorded().map(|_| ())
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The records of `.idx` and `.bin`.
    pub(crate) fn finish_recorded(mut self) -> Result<(FileRecord, FileRecord)> {
        if self.pending > 0 {
            self.end_document();
        }
        let mut pointer = 0;
        let width = self.stored.bytes() as i64;
        let pointers = self.lengths.iter().map(|&length| {
            let here = pointer;
            pointer += i64::from(length) * width;
            here
        });
        let index = with_end(&self.prefix, "idx");
        let index = write_index(&index, self.stored, &self.lengths, pointers, &self.documents)?;
        Ok((index, self.bin.finish()?))
    }
}

/// Writes an `.idx`. `documents` holds where each document begins among the sequences, and the end.
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

/// `PREFIX.idx`, `PREFIX.bin`: the prefix may hold dots of its own.
pub(crate) fn with_end(prefix: &Path, end: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_os_string();
    path.push(".");
    path.push(end);
    path.into()
}

/// Shards opened for reading.
pub struct Shards {
    path: PathBuf,
    index: FileBuffer,
    bin: FileBuffer,
    layout: Layout,
}

/// What the header of an `.idx` says, checked.
struct Layout {
    stored: Stored,
    sequences: usize,
    documents: usize,
    tokens: u64,
    /// Tokens before every `STRIDE`-th sequence.
    before: Vec<u64>,
}

/// A token, and whether its document begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub token: i64,
    pub begins: bool,
}

impl Shards {
    /// Opens `PREFIX.idx` and `PREFIX.bin`, and checks that they fit together.
    pub fn open(prefix: &Path) -> Result<Shards> {
        Shards::open_files(&with_end(prefix, "idx"), &with_end(prefix, "bin"))
    }

    pub(crate) fn open_files(index: &Path, bin: &Path) -> Result<Shards> {
        let path = index.to_path_buf();
        let map = |path: &Path| FileBuffer::open(path).map_err(|e| Problem::io("open", path, &e));
        let (index, bin_path, bin) = (map(index)?, bin, map(bin)?);
        let layout = Layout::read(&index, bin.len() as u64).map_err(|problem| {
            Problem::new(
                format!("{} (with {}) {problem}", path.display(), bin_path.display()),
                "one of the two is truncated, corrupt or of another data set; make or fetch them again",
            )
        })?;
        Ok(Shards { path, index, bin, layout })
    }

    /// Whether an `.idx` with these bytes fits a `.bin` of so many, or what is wrong with it.
    pub fn check_index(index: &[u8], bin_bytes: u64) -> std::result::Result<(), String> {
        Layout::read(index, bin_bytes).map(|_| ())
    }

    pub fn tokens(&self) -> u64 {
        self.layout.tokens
    }

    pub fn documents(&self) -> usize {
        self.layout.documents
    }

    /// The tokens of a document.
    pub fn document(&self, document: usize) -> Vec<i64> {
        let sequences = self.sequences_of(document);
        let stored = self.layout.stored;
        sequences
            .flat_map(|sequence| self.bytes_of(sequence).chunks_exact(stored.bytes()).map(|b| stored.read(b)))
            .collect()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn stored(&self) -> Stored {
        self.layout.stored
    }

    pub(crate) fn sequences_of(&self, document: usize) -> std::ops::Range<usize> {
        let layout = &self.layout;
        layout.document(&self.index, document)..layout.document(&self.index, document + 1)
    }

    /// A sequence's token count and where it begins in the `.bin`, in bytes.
    pub(crate) fn row(&self, sequence: usize) -> (i32, i64) {
        (length(&self.index, sequence), self.layout.pointer(&self.index, sequence))
    }

    /// `count` tokens of all documents joined, from token `at` on. After the last comes the first.
    pub(crate) fn read(&self, at: u64, count: usize) -> Vec<Read> {
        let mut read = Vec::with_capacity(count);
        let (mut sequence, mut skip) = self.locate(at);
        let stored = self.layout.stored;
        let mut begins = false;
        while read.len() < count {
            begins |= skip == 0 && self.begins_document(sequence);
            let bytes = self.bytes_of(sequence)[skip * stored.bytes()..].chunks_exact(stored.bytes());
            for bytes in bytes.take(count - read.len()) {
                read.push(Read { token: stored.read(bytes), begins: std::mem::take(&mut begins) });
            }
            (sequence, skip) = ((sequence + 1) % self.layout.sequences, 0);
        }
        read
    }

    /// The sequence that holds token `at` of all, and how many of its tokens come before.
    fn locate(&self, at: u64) -> (usize, usize) {
        let group = self.layout.before.partition_point(|&before| before <= at) - 1;
        let mut left = at - self.layout.before[group];
        let mut sequence = group * STRIDE;
        loop {
            let length = length(&self.index, sequence) as u64;
            if left < length {
                return (sequence, left as usize);
            }
            left -= length;
            sequence += 1;
        }
    }

    fn begins_document(&self, sequence: usize) -> bool {
        let (mut low, mut high) = (0, self.layout.documents);
        while low < high {
            let middle = low.midpoint(high);
            match self.layout.document(&self.index, middle).cmp(&sequence) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }

    fn bytes_of(&self, sequence: usize) -> &[u8] {
        let (length, pointer) = self.row(sequence);
        &self.bin[pointer as usize..][..length as usize * self.layout.stored.bytes()]
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

fn length(index: &[u8], sequence: usize) -> i32 {
    let mut four = [0; 4];
    four.copy_from_slice(&index[HEADER_BYTES + 4 * sequence..][..4]);
    i32::from_le_bytes(four)
}

impl Layout {
    fn read(index: &[u8], bin_bytes: u64) -> std::result::Result<Layout, String> {
        if index.len() < HEADER_BYTES || &index[..9] != MAGIC {
            return Err(format!(
                "is not a Megatron index: its {} bytes do not begin with MMIDIDX",
                index.len()
            ));
        }
        let version = u64_at(index, 9);
        if version != VERSION {
            return Err(format!("is of version {version}; version {VERSION} is known"));
        }
        let stored = Stored::of_code(index[17])
            .ok_or_else(|| format!("stores tokens as type {}; 1 to 5 and 8 are known", index[17]))?;
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
            let (length, pointer) = (length(index, sequence), self.pointer(index, sequence));
            let end = i128::from(pointer) + i128::from(length) * self.stored.bytes() as i128;
            if length < 0 || pointer < 0 || end > i128::from(bin_bytes) {
                return Err(format!(
                    "puts the {length} tokens of sequence {sequence} at byte {pointer} of a .bin of {bin_bytes} bytes"
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

    fn pointer(&self, index: &[u8], sequence: usize) -> i64 {
        u64_at(index, HEADER_BYTES + 4 * self.sequences + 8 * sequence) as i64
    }

    fn document(&self, index: &[u8], document: usize) -> usize {
        u64_at(index, HEADER_BYTES + 12 * self.sequences + 8 * document) as usize
    }
}
