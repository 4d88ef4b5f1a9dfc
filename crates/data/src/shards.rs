//! Megatron's indexed dataset: tokens in a `.bin`, their sequences and documents in an `.idx`. Both files are
//! mapped into memory and never read whole.

use crate::files::{FileRecord, HashedFile};
use crate::index::{Layout, STRIDE, Stored, write_index};
use filebuffer::FileBuffer;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::path::{Path, PathBuf};

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
    /// Creates `PREFIX.bin` and `PREFIX.idx` for tokens below `vocabulary`.
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
                // The format counts a sequence's tokens in 31 bits; the document goes on in another sequence.
                self.lengths.push(std::mem::take(&mut self.pending));
            }
            self.pending += 1;
        }
        self.tokens += tokens.len() as u64;
        self.bin.write(&bytes)
    }

    /// Ends the current document; what follows is another one.
    pub fn end_document(&mut self) {
        self.lengths.push(std::mem::take(&mut self.pending));
        self.documents.push(self.lengths.len() as i64);
    }

    /// Completes both files. What follows the last `end_document` is a document too.
    pub fn finish(self) -> Result<()> {
        self.finish_recorded().map(|_| ())
    }

    /// Tokens written so far.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Completes both files and returns the records of `.idx` and `.bin`.
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

/// `PREFIX.END`; the prefix may contain dots of its own.
pub(crate) fn with_end(prefix: &Path, end: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_os_string();
    path.push(".");
    path.push(end);
    path.into()
}

/// The prefix of the shards that a corpus path names as `PREFIX`, `PREFIX.idx` or `PREFIX.bin`; none where it
/// names something else.
pub(crate) fn prefix_of(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let named = path.extension().is_some_and(|end| end == "idx" || end == "bin");
    if named && path.with_extension("idx").exists() {
        return Some(path.with_extension(""));
    }
    (!path.exists() && with_end(path, "idx").exists()).then(|| path.into())
}

/// The `.idx` and the `.bin` of a prefix.
pub(crate) fn files_of(prefix: &Path) -> [PathBuf; 2] {
    [with_end(prefix, "idx"), with_end(prefix, "bin")]
}

/// Shards opened for reading.
pub struct Shards {
    path: PathBuf,
    index: FileBuffer,
    bin: FileBuffer,
    layout: Layout,
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
            .of(ProblemKind::Damaged)
        })?;
        Ok(Shards { path, index, bin, layout })
    }

    /// Checks an `.idx` against a `.bin` of `bin_bytes`; errors with what is wrong with it.
    pub fn check_index(index: &[u8], bin_bytes: u64) -> std::result::Result<(), String> {
        Layout::read(index, bin_bytes).map(|_| ())
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.layout.tokens
    }

    /// How many documents there are.
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
        (self.layout.length(&self.index, sequence), self.layout.pointer(&self.index, sequence))
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
            let length = self.layout.length(&self.index, sequence) as u64;
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
