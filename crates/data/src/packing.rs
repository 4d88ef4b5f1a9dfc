//! Files as they are packed: recognised by their first bytes, or by their name where those tell nothing.

use crate::lines::unreadable;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The beginning of a file that is looked at.
const HEAD_BYTES: usize = 64 << 10;
/// The head grows to this size while a record in it has no end.
pub(crate) const LONGEST_HEAD_BYTES: usize = 16 << 20;
/// Every packed file may unpack to this many bytes.
const FREE_BYTES: u64 = 64 << 20;
/// Beyond that, to this many times its own bytes. Text that anybody wrote takes 3 to 20 times.
const LARGEST_RATIO: u64 = 200;

/// A file that was opened, and whatever its first bytes say of it.
pub(crate) enum Opened {
    /// Columns, which are not read from the beginning.
    Parquet,
    /// A stream of unpacked bytes.
    Stream(Stream),
}

/// Unpacked bytes, of which the first were looked at already.
pub(crate) struct Stream {
    head: Vec<u8>,
    is_whole: bool,
    reader: Box<dyn BufRead>,
}

/// Opens a file and unpacks it. `path` is the name the user knows it by.
pub(crate) fn open(file: &Path, path: &Path) -> Result<Opened> {
    let failed = |e: std::io::Error| Problem::io("open", path, &e);
    let file = File::open(file).map_err(failed)?;
    let mut file = BufReader::with_capacity(HEAD_BYTES, file);
    let magic: Vec<u8> = file.fill_buf().map_err(failed)?.iter().take(4).copied().collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if magic == *b"PAR1" || name.ends_with(".parquet") {
        return Ok(Opened::Parquet);
    }
    let reader: Box<dyn BufRead> = if magic.starts_with(&[0x1f, 0x8b]) || name.ends_with(".gz") {
        let packed = Packed { file, bytes: Rc::default() };
        let limit = Limit::new(path, packed.bytes.clone());
        bounded(flate2::bufread::MultiGzDecoder::new(packed), limit)
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] || name.ends_with(".zst") {
        let packed = Packed { file, bytes: Rc::default() };
        let limit = Limit::new(path, packed.bytes.clone());
        let decoder = zstd::stream::read::Decoder::with_buffer(packed);
        bounded(decoder.map_err(|e| Problem::io("unpack", path, &e))?, limit)
    } else {
        Box::new(file)
    };
    Ok(Opened::Stream(Stream { head: Vec::new(), is_whole: false, reader }))
}

/// How much a packed file may unpack to, so that a few bytes cannot fill memory, disk and hours.
pub(crate) struct Limit {
    path: PathBuf,
    packed_bytes: Rc<Cell<u64>>,
    unpacked_bytes: u64,
}

impl Limit {
    /// For a file of which `packed_bytes` were read.
    pub(crate) fn new(path: &Path, packed_bytes: Rc<Cell<u64>>) -> Limit {
        Limit { path: path.into(), packed_bytes, unpacked_bytes: 0 }
    }

    /// Counts bytes that were unpacked. Errors with a clause that follows the name of the file.
    pub(crate) fn count(&mut self, bytes: usize) -> std::result::Result<(), String> {
        self.unpacked_bytes = self.unpacked_bytes.saturating_add(bytes as u64);
        let packed = self.packed_bytes.get();
        if self.unpacked_bytes <= FREE_BYTES.max(LARGEST_RATIO.saturating_mul(packed)) {
            return Ok(());
        }
        Err(format!(
            "unpacks to more than {} bytes from {packed}: no text repeats itself {LARGEST_RATIO} times",
            self.unpacked_bytes - bytes as u64
        ))
    }
}

/// The problem of a file that unpacks to too much; `clause` is that of its limit.
pub(crate) fn too_much(path: &Path, clause: &str) -> Problem {
    Problem::new(
        format!("{} {clause}", path.display()),
        "leave the file out of the corpus, or unpack it yourself and name the unpacked file",
    )
    .of(ProblemKind::Input)
}

/// A packed file, whose bytes are counted as they are used.
struct Packed {
    file: BufReader<File>,
    bytes: Rc<Cell<u64>>,
}

impl Read for Packed {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        self.bytes.set(self.bytes.get() + read as u64);
        Ok(read)
    }
}

impl BufRead for Packed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.file.consume(bytes);
    }
}

/// The bytes of an unpacker, as many as the limit lets through.
struct Unpacked<R> {
    unpacker: R,
    limit: Limit,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.unpacker.read(to)?;
        let within = self.limit.count(read);
        within.map_err(|clause| io::Error::other(too_much(&self.limit.path, &clause)))?;
        Ok(read)
    }
}

fn bounded(unpacker: impl Read + 'static, limit: Limit) -> Box<dyn BufRead> {
    Box::new(BufReader::new(Unpacked { unpacker, limit }))
}

/// The lower-case name of a file without what says how it is packed.
pub(crate) fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst"));
    plain.map_or(name.clone(), str::to_owned)
}

impl Stream {
    /// The beginning of the stream, longer each time it is asked for, up to a limit.
    pub(crate) fn head(&mut self, path: &Path) -> Result<&[u8]> {
        let wanted = (2 * self.head.len()).clamp(HEAD_BYTES, LONGEST_HEAD_BYTES);
        let more = (wanted - self.head.len()) as u64;
        let read = self.reader.by_ref().take(more).read_to_end(&mut self.head);
        read.map_err(|e| unreadable(path, &e))?;
        self.is_whole = self.head.len() < wanted;
        Ok(&self.head)
    }

    /// Whether a longer head can be had.
    pub(crate) fn can_grow(&self) -> bool {
        !self.is_whole && self.head.len() < LONGEST_HEAD_BYTES
    }

    /// All bytes from the first on.
    pub(crate) fn into_reader(self) -> Box<dyn BufRead> {
        Box::new(std::io::Cursor::new(self.head).chain(self.reader))
    }
}
