//! One safetensors file, written and read tensor by tensor. Each tensor is hashed on the way, and nothing is
//! copied twice.

use crate::disk::{self, Call};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[cfg(target_endian = "big")]
compile_error!("safetensors is little-endian, and tensors are written as they lie in memory");

/// A longer header than this is refused before it is read.
const LARGEST_HEADER_BYTES: u64 = 100_000_000;
/// Tensors that are only verified pass through a buffer of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// A tensor in host memory, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// Sizes, the slowest dimension first.
    pub shape: &'a [usize],
    /// Numbers in row-major order.
    pub values: &'a [f32],
}

/// A tensor in host memory: name, shape, values.
pub type Tensor = (String, Vec<usize>, Vec<f32>);

/// The place of a tensor in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in the file.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// Sizes, the slowest dimension first.
    pub shape: Vec<usize>,
    /// First byte, counted from the beginning of the file.
    pub begin: u64,
    /// The byte after the last.
    pub end: u64,
}

/// Writes the tensors in their order and syncs the file. Returns its size in bytes and the hash of each
/// tensor.
pub fn write(path: &Path, tensors: &[Named<'_>]) -> Result<(u64, Vec<String>)> {
    let header = header_bytes(path, tensors)?;
    let failed = |error: std::io::Error| Problem::io("write", path, &error);
    let mut file = disk::call(Call::Create, path, || File::create(path)).map_err(failed)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(&header).map_err(failed)?;
    let mut bytes = 8 + header.len() as u64;
    let mut hashes = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let data: &[u8] = bytemuck::cast_slice(tensor.values);
        disk::call(Call::Write, path, || file.write_all(data)).map_err(failed)?;
        bytes += data.len() as u64;
        hashes.push(blake3::hash(data).to_hex().to_string());
    }
    disk::call(Call::Sync, path, || file.sync_all()).map_err(failed)?;
    Ok((bytes, hashes))
}

/// A safetensors file whose header has been read and checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// The tensors, in the order of the file.
    pub entries: Vec<Entry>,
    /// Size of the file.
    pub bytes: u64,
}

impl TensorFile {
    /// Reads and checks the header of a file.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let failed = |error: std::io::Error| Problem::io("read", path, &error);
        let mut file = disk::call(Call::Open, path, || File::open(path)).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(8).read_to_end(&mut start).map_err(failed)?;
        let header_len = header_length(&start, bytes).map_err(|problem| damaged(path, &problem))?;
        Read::by_ref(&mut file).take(header_len).read_to_end(&mut start).map_err(failed)?;
        let entries = parse_header(&start, bytes).map_err(|problem| damaged(path, &problem))?;
        Ok(TensorFile { path: path.to_owned(), file, entries, bytes })
    }

    /// The values of an f32 tensor and the hash of its bytes.
    pub fn read(&mut self, entry: &Entry) -> Result<(Vec<f32>, String)> {
        self.require_f32(entry)?;
        // The header was checked against the file's size, so a damaged one cannot ask for more than that.
        let mut values = vec![0f32; ((entry.end - entry.begin) / 4) as usize];
        let data: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        let failed = |error: std::io::Error| Problem::io("read", &self.path, &error);
        self.file.seek(SeekFrom::Start(entry.begin)).map_err(failed)?;
        disk::call(Call::Read, &self.path, || self.file.read_exact(data)).map_err(failed)?;
        let hash = blake3::hash(data).to_hex().to_string();
        Ok((values, hash))
    }

    /// The hash of a tensor's bytes. Takes little memory, however large the tensor.
    pub fn hash(&mut self, entry: &Entry) -> Result<String> {
        let failed = |error: std::io::Error| Problem::io("read", &self.path, &error);
        self.file.seek(SeekFrom::Start(entry.begin)).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        let mut left = entry.end - entry.begin;
        let mut buffer = vec![0; CHUNK_BYTES.min(left as usize)];
        while left > 0 {
            let part = &mut buffer[..CHUNK_BYTES.min(left as usize)];
            disk::call(Call::Read, &self.path, || self.file.read_exact(part)).map_err(failed)?;
            hasher.update(part);
            left -= part.len() as u64;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn require_f32(&self, entry: &Entry) -> Result<()> {
        if entry.dtype == Dtype::F32 {
            return Ok(());
        }
        Err(Problem::new(
            format!("tensor `{}` of {} is {:?}, not F32", entry.name, self.path.display(), entry.dtype),
            "checkpoints hold f32; for weights in another type use `lingot import`",
        )
        .of(ProblemKind::Damaged))
    }
}

/// The tensors that a safetensors header describes. `start` is the beginning of a file of `file_bytes`,
/// header included. Never panics and never allocates more than a multiple of the header, whatever the bytes
/// are.
pub fn parse_header(start: &[u8], file_bytes: u64) -> std::result::Result<Vec<Entry>, String> {
    let length = header_length(start, file_bytes)?;
    let header = start.get(8..).and_then(|rest| rest.get(..length as usize));
    let header =
        header.ok_or_else(|| format!("the header should have {length} bytes, {} are there", start.len()))?;
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("the header does not parse: {error}"))?;
    let data_bytes = metadata.data_len() as u64;
    let expected = data_bytes.checked_add(8 + length).filter(|&expected| expected == file_bytes);
    if expected.is_none() {
        return Err(format!(
            "the header describes {data_bytes} bytes of tensors, the file has {}",
            file_bytes - 8 - length
        ));
    }
    let mut entries: Vec<Entry> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Entry {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            begin: 8 + length + info.data_offsets.0 as u64,
            end: 8 + length + info.data_offsets.1 as u64,
        })
        .collect();
    entries.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    Ok(entries)
}

fn header_length(start: &[u8], file_bytes: u64) -> std::result::Result<u64, String> {
    let first: [u8; 8] = start
        .get(..8)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("{file_bytes} bytes are too few for a safetensors file"))?;
    let length = u64::from_le_bytes(first);
    if length > file_bytes.saturating_sub(8) || length > LARGEST_HEADER_BYTES {
        return Err(format!("the header claims {length} bytes, the file has {file_bytes}"));
    }
    Ok(length)
}

fn header_bytes(path: &Path, tensors: &[Named<'_>]) -> Result<Vec<u8>> {
    let mut seen = HashSet::new();
    let mut infos = Vec::with_capacity(tensors.len());
    let mut offset = 0;
    for tensor in tensors {
        let numbers: usize = tensor.shape.iter().product();
        assert_eq!(numbers, tensor.values.len(), "tensor {} has shape {:?}", tensor.name, tensor.shape);
        assert!(seen.insert(tensor.name), "two tensors are called {}", tensor.name);
        let end = offset + 4 * numbers;
        let info =
            TensorInfo { dtype: Dtype::F32, shape: tensor.shape.to_vec(), data_offsets: (offset, end) };
        infos.push((tensor.name.to_owned(), info));
        offset = end;
    }
    let header = Metadata::new(None, infos).map_err(|error| error.to_string());
    let header = header.and_then(|header| serde_json::to_vec(&header).map_err(|error| error.to_string()));
    let mut header = header.map_err(|problem| {
        Problem::bug(format!("cannot describe the tensors of {}: {problem}", path.display()))
    })?;
    // Readers that map the file want the numbers aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn damaged(path: &Path, problem: &str) -> Problem {
    Problem::new(
        format!("{} is damaged: {problem}", path.display()),
        "copy the file again, or use an older checkpoint",
    )
    .of(ProblemKind::Damaged)
}
