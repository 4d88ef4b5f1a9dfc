//! The pages of a Parquet column, sized up before any of them is unpacked.
//!
//! The library allocates what the header of a page claims, and unpacks gzip to its end. So the headers are
//! walked first: a file that claims or unpacks to more than it may is refused by name. The headers are
//! Thrift's compact protocol (thrift-compact-protocol.md), the fields those of parquet.thrift, `PageHeader`.

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// The largest page that is unpacked, in bytes; writers aim at one megabyte.
pub(crate) const LARGEST_PAGE_BYTES: u64 = 256 << 20;
/// Deeper nesting than any header has.
const DEEPEST: u32 = 16;

/// Sizes in a page's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    unpacked_bytes: i64,
    packed_bytes: i64,
}

/// Checks all pages of a column chunk; of most, only the header is read. Errors with a clause that follows
/// the name of the file.
pub(crate) fn check(file: &File, column: &ColumnChunkMetaData) -> io::Result<Result<(), String>> {
    let (start, bytes) = column.byte_range();
    let mut reader = Counted { inner: BufReader::new(file), bytes: 0 };
    reader.inner.seek(SeekFrom::Start(start))?;
    let is_gzip = matches!(column.compression(), Compression::GZIP(_));
    while reader.bytes < bytes {
        let header = header(&mut reader)?;
        let sizes = (u64::try_from(header.packed_bytes), u64::try_from(header.unpacked_bytes));
        let (Ok(packed), Ok(unpacked)) = sizes else {
            return Ok(Err(format!("has a page of {} bytes", header.unpacked_bytes)));
        };
        if unpacked > LARGEST_PAGE_BYTES {
            return Ok(Err(format!(
                "has a page of {unpacked} bytes, packed in {packed}; pages have at most {LARGEST_PAGE_BYTES}"
            )));
        }
        if !is_gzip {
            reader.inner.seek_relative(header.packed_bytes)?;
            reader.bytes += packed;
            continue;
        }
        let mut page = reader.by_ref().take(packed);
        let found = io::copy(&mut MultiGzDecoder::new(&mut page).take(unpacked + 1), &mut io::sink());
        if found.is_ok_and(|found| found > unpacked) {
            return Ok(Err(format!("has a page that claims {unpacked} bytes and unpacks to more")));
        }
        io::copy(&mut page, &mut io::sink())?;
    }
    Ok(Ok(()))
}

/// A file, and how much of it was read.
struct Counted<'a> {
    inner: BufReader<&'a File>,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(to)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Reads a page's header, and leaves the reader at the first byte of the page.
fn header(reader: &mut impl Read) -> io::Result<Header> {
    let mut header = Header::default();
    fields(reader, DEEPEST, &mut |field, value| match field {
        2 => header.unpacked_bytes = value,
        3 => header.packed_bytes = value,
        _ => {}
    })?;
    Ok(header)
}

/// Reads the fields of a struct up to its end. `number` receives its whole numbers with their field.
fn fields(reader: &mut impl Read, depth: u32, number: &mut dyn FnMut(i64, i64)) -> io::Result<()> {
    let mut field = 0;
    loop {
        let head = byte(reader)?;
        if head == 0 {
            return Ok(());
        }
        field = match head >> 4 {
            0 => zigzag(reader)?,
            delta => field + i64::from(delta),
        };
        match head & 15 {
            4..=6 => number(field, zigzag(reader)?),
            1 | 2 => {} // A boolean is its type.
            kind => skip(reader, kind, depth)?,
        }
    }
}

/// Passes over a value that is no field's boolean.
fn skip(reader: &mut impl Read, kind: u8, depth: u32) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let deeper = depth.checked_sub(1).ok_or_else(broken)?;
    match kind {
        1..=3 => byte(reader).map(|_| ()),
        4..=6 => zigzag(reader).map(|_| ()),
        7 => pass(reader, 8),
        8 => {
            let length = varint(reader)?;
            pass(reader, length)
        }
        9 | 10 => {
            let head = byte(reader)?;
            let count = if head >> 4 == 15 { varint(reader)? } else { u64::from(head >> 4) };
            (0..count).try_for_each(|_| skip(reader, head & 15, deeper))
        }
        11 => {
            let count = varint(reader)?;
            let kinds = if count > 0 { byte(reader)? } else { 0 };
            (0..count).try_for_each(|_| {
                skip(reader, kinds >> 4, deeper)?;
                skip(reader, kinds & 15, deeper)
            })
        }
        12 => fields(reader, deeper, &mut |_, _| ()),
        _ => Err(broken()),
    }
}

fn pass(reader: &mut impl Read, bytes: u64) -> io::Result<()> {
    match io::copy(&mut reader.take(bytes), &mut io::sink())? {
        passed if passed == bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn byte(reader: &mut impl Read) -> io::Result<u8> {
    let mut one = [0];
    reader.read_exact(&mut one)?;
    Ok(one[0])
}

fn varint(reader: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte(reader)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn zigzag(reader: &mut impl Read) -> io::Result<i64> {
    let value = varint(reader)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type 0, unpacked 300, packed 20, then a struct with a binary, a list and a boolean.
    const HEADER: &[u8] =
        &[0x15, 0, 0x15, 0xd8, 0x04, 0x15, 40, 0x2c, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x11, 0, 0];

    #[test]
    fn the_sizes_of_a_page_are_read_and_the_rest_of_its_header_is_passed_over() {
        let mut bytes = [HEADER, b"page"].concat();
        let mut reader = &bytes[..];
        let found = header(&mut reader).unwrap();
        assert_eq!(found, Header { unpacked_bytes: 300, packed_bytes: 20 });
        assert_eq!(reader, b"page");
        for length in 0..HEADER.len() {
            assert!(header(&mut &HEADER[..length]).is_err(), "{length}");
        }
        for at in 0..HEADER.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let _ = header(&mut &bytes[..]);
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn nesting_without_an_end_is_an_error() {
        let nested = vec![0x1c; 10_000];
        assert!(header(&mut &nested[..]).is_err());
        // A list of 2^60 booleans ends with the bytes.
        let long = [0x19, 0xf1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(header(&mut &long[..]).is_err());
    }
}
