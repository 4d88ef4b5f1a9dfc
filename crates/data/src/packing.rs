//! Files as they are packed: recognised by their first bytes, or by their name where those tell nothing.

use crate::lines::unreadable;
use lingot_spec::problem::{Problem, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The beginning of a file that is looked at.
const HEAD_BYTES: usize = 64 << 10;
/// The head grows to this size while a record in it has no end.
pub(crate) const LONGEST_HEAD_BYTES: usize = 16 << 20;

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
        Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)))
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] || name.ends_with(".zst") {
        let decoder = zstd::stream::read::Decoder::with_buffer(file);
        Box::new(BufReader::new(decoder.map_err(|e| Problem::io("unpack", path, &e))?))
    } else {
        Box::new(file)
    };
    Ok(Opened::Stream(Stream { head: Vec::new(), is_whole: false, reader }))
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
