//! The bytes of a GGUF file, version 3: keys with values, the places of the tensors, then their numbers.

use crate::hugging_face::ElementType;
use lingot_spec::problem::{Problem, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const MAGIC: &[u8] = b"GGUF";
const VERSION: u32 = 3;
/// Every tensor starts at a multiple of this many bytes, the format's default.
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(u32),
    Real(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
}

/// The metadata, in the order in which it is written.
pub(super) type Metadata = Vec<(String, Value)>;

/// A tensor to be written.
pub(super) struct Planned {
    pub(super) name: String,
    /// Sizes, the slowest dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) element: ElementType,
}

impl Planned {
    fn bytes(&self) -> u64 {
        self.element.bytes() * self.shape.iter().product::<usize>() as u64
    }
}

/// Writes the file and syncs it; `fill` appends the bytes of a tensor by its index. Returns the bytes of the
/// tensors' numbers.
pub(super) fn write(
    path: &Path,
    metadata: &Metadata,
    tensors: &[Planned],
    mut fill: impl FnMut(usize, &mut Vec<u8>) -> Result<()>,
) -> Result<u64> {
    let failed = |error: std::io::Error| Problem::io("write", path, &error);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    file.write_all(&header(metadata, tensors)).map_err(failed)?;
    let mut bytes = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        bytes.clear();
        fill(index, &mut bytes)?;
        debug_assert_eq!(bytes.len() as u64, tensor.bytes(), "{}", tensor.name);
        bytes.resize((bytes.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
        file.write_all(&bytes).map_err(failed)?;
    }
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    Ok(tensors.iter().map(Planned::bytes).sum())
}

/// All that comes before the numbers.
fn header(metadata: &Metadata, tensors: &[Planned]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut bytes, key);
        bytes.extend(value_type(value).to_le_bytes());
        append(&mut bytes, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        // The format lists the fastest dimension first.
        bytes.extend(tensor.shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
        bytes.extend(element_type(tensor.element).to_le_bytes());
        bytes.extend(u64::to_le_bytes(offset));
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    bytes.resize((bytes.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn append(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => bytes.extend(number.to_le_bytes()),
        Value::Real(number) => bytes.extend(number.to_le_bytes()),
        Value::Flag(flag) => bytes.push(u8::from(*flag)),
        Value::Text(value) => text(bytes, value),
        Value::Texts(values) => {
            array(bytes, TEXT, values.len());
            values.iter().for_each(|value| text(bytes, value));
        }
        Value::Numbers(values) => {
            array(bytes, SIGNED, values.len());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}

fn array(bytes: &mut Vec<u8>, of: u32, count: usize) {
    bytes.extend(of.to_le_bytes());
    bytes.extend((count as u64).to_le_bytes());
}

const SIGNED: u32 = 5;
const TEXT: u32 = 8;

/// The format's number of a value's type.
fn value_type(value: &Value) -> u32 {
    match value {
        Value::Number(_) => 4,
        Value::Real(_) => 6,
        Value::Flag(_) => 7,
        Value::Text(_) => TEXT,
        Value::Texts(_) | Value::Numbers(_) => 9,
    }
}

/// ggml's number of an element type.
fn element_type(element: ElementType) -> u32 {
    match element {
        ElementType::F32 => 0,
        ElementType::F16 => 1,
        ElementType::Bf16 => 30,
    }
}
