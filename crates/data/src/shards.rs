//! Megatron's indexed dataset: tokens in a `.bin`, their sequences and documents in an `.idx`. What is wanted
//! of both files is read when it is wanted; neither is ever in memory as a whole.

use crate::files::{FileRecord, HashedFile};
use crate::index::{Layout, Row, STRIDE, Stored, Unusable, write_index};
use crate::place::Place;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::fs::File;
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
    bin_path: PathBuf,
    index: File,
    bin: File,
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

    pub(crate) fn open_files(path: &Path, bin_path: &Path) -> Result<Shards> {
        let open = |path: &Path| File::open(path).map_err(|e| Problem::io("open", path, &e));
        let (index, bin) = (open(path)?, open(bin_path)?);
        let bin_bytes = bin.metadata().map_err(|e| Problem::io("read", bin_path, &e))?.len();
        let layout = Layout::read(&Place::File(&index), bin_bytes).map_err(|problem| match problem {
            Unusable::Unread(error) => Problem::io("read", path, &error),
            Unusable::Wrong(problem) => Problem::new(
                format!("{} (with {}) {problem}", path.display(), bin_path.display()),
                "one of the two is truncated, corrupt or of another data set; make or fetch them again",
            )
            .of(ProblemKind::Damaged),
        })?;
        Ok(Shards { path: path.into(), bin_path: bin_path.into(), index, bin, layout })
    }

    /// Checks an `.idx` against a `.bin` of `bin_bytes`; errors with what is wrong with it.
    pub fn check_index(index: &[u8], bin_bytes: u64) -> std::result::Result<(), String> {
        Layout::read(&Place::Memory(index), bin_bytes).map(|_| ()).map_err(|problem| match problem {
            Unusable::Unread(error) => error.to_string(),
            Unusable::Wrong(problem) => problem,
        })
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.layout.tokens
    }

    /// How many documents there are.
    pub fn documents(&self) -> usize {
        self.layout.documents
    }

    /// The tokens of a document. Errors if the files cannot be read any more.
    pub fn document(&self, document: usize) -> Result<Vec<i64>> {
        let mut tokens = Vec::new();
        for row in self.rows_of(document)? {
            self.push_tokens(row, 0, row.tokens.max(0) as usize, |token| tokens.push(token))?;
        }
        Ok(tokens)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn stored(&self) -> Stored {
        self.layout.stored
    }

    /// The sequences of a document.
    pub(crate) fn rows_of(&self, document: usize) -> Result<Vec<Row>> {
        let bounds = self.layout.bounds(&self.index(), document, 2).map_err(|e| self.lost(&self.path, &e))?;
        self.rows(bounds[0], bounds[1] - bounds[0])
    }

    /// `count` tokens of all documents joined, from token `at` on. After the last comes the first.
    pub(crate) fn read(&self, at: u64, count: usize) -> Result<Vec<Read>> {
        let mut read = Vec::with_capacity(count);
        let (mut first, mut skip) = self.locate(at)?;
        let (mut begins, mut passed) = (false, 0);
        while read.len() < count {
            let rows = self.rows(first, STRIDE)?;
            // Each round through all sequences brings a token, unless the file has changed.
            passed += rows.len();
            if passed / self.layout.sequences > read.len() + 1 {
                return Err(self.changed(&self.path));
            }
            let beginnings = self.beginnings(first, rows.len())?;
            for (row, begins_here) in rows.iter().zip(beginnings) {
                begins |= skip == 0 && begins_here;
                let tokens = row.tokens.max(0) as usize;
                let wanted = tokens.saturating_sub(skip).min(count - read.len());
                self.push_tokens(*row, skip, wanted, |token| {
                    read.push(Read { token, begins: std::mem::take(&mut begins) });
                })?;
                skip = 0;
            }
            first = (first + rows.len()) % self.layout.sequences;
        }
        Ok(read)
    }

    /// The documents that hold `count` tokens from token `at` on, each once.
    pub(crate) fn documents_at(&self, at: u64, count: u64) -> Result<Vec<usize>> {
        let failed = |e| self.lost(&self.path, &e);
        let document_of = |token: u64| {
            let (sequence, _) = self.locate(token % self.tokens())?;
            // The first that begins after the sequence comes after the one that holds it.
            Ok(self.layout.document_from(&self.index(), sequence + 1).map_err(failed)?.saturating_sub(1))
        };
        let (first, last) = (document_of(at)?, document_of(at + count.max(1) - 1)?);
        if first <= last {
            return Ok((first..=last).collect());
        }
        Ok((first..self.documents()).chain(0..=last).collect())
    }

    fn index(&self) -> Place<'_> {
        Place::File(&self.index)
    }

    fn rows(&self, first: usize, count: usize) -> Result<Vec<Row>> {
        self.layout.rows(&self.index(), first, count).map_err(|e| self.lost(&self.path, &e))
    }

    /// The sequence that holds token `at` of all, and how many of its tokens come before.
    fn locate(&self, at: u64) -> Result<(usize, usize)> {
        let group = self.layout.before.partition_point(|&before| before <= at) - 1;
        let mut left = at - self.layout.before[group];
        for (sequence, row) in (group * STRIDE..).zip(self.rows(group * STRIDE, STRIDE)?) {
            if left < row.tokens as u64 {
                return Ok((sequence, left as usize));
            }
            left = left.saturating_sub(row.tokens as u64);
        }
        Err(self.changed(&self.path))
    }

    /// Whether a document begins with each of `count` sequences from `first` on.
    fn beginnings(&self, first: usize, count: usize) -> Result<Vec<bool>> {
        let failed = |e| self.lost(&self.path, &e);
        let mut begins = vec![false; count];
        let mut document = self.layout.document_from(&self.index(), first).map_err(failed)?;
        while document < self.layout.documents {
            let bounds = self.layout.bounds(&self.index(), document, STRIDE).map_err(failed)?;
            for bound in &bounds {
                match bound.checked_sub(first).and_then(|place| begins.get_mut(place)) {
                    Some(begins_here) => *begins_here = true,
                    None => return Ok(begins),
                }
            }
            document += bounds.len();
        }
        Ok(begins)
    }

    /// Passes on `count` tokens of a sequence, after its first `skip`.
    fn push_tokens(&self, row: Row, skip: usize, count: usize, push: impl FnMut(i64)) -> Result<()> {
        let stored = self.layout.stored;
        let at = row.pointer as u64 + (skip * stored.bytes()) as u64;
        let mut bytes = vec![0; count * stored.bytes()];
        let read = Place::File(&self.bin).read(at, &mut bytes);
        read.map_err(|e| self.lost(&self.bin_path, &e))?;
        bytes.chunks_exact(stored.bytes()).map(|bytes| stored.read(bytes)).for_each(push);
        Ok(())
    }

    /// The error for a file that was whole when it was opened.
    fn lost(&self, path: &Path, error: &std::io::Error) -> Problem {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.changed(path),
            _ => Problem::io("read", path, error),
        }
    }

    fn changed(&self, path: &Path) -> Problem {
        let bytes = std::fs::metadata(path).map_or(0, |about| about.len());
        Problem::new(
            format!("{} was changed while it was read: now it has {bytes} bytes", path.display()),
            "put back the file as it was when the data was prepared, then run the same command again",
        )
        .of(ProblemKind::Damaged)
    }
}
