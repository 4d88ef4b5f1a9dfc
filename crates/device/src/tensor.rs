//! Tensors: a shape, a kind of element, and a piece of a device's memory that is given back with the last
//! view of it.

use crate::backend::Backend;
use crate::bf16::Bf16;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::slot::{Slot, SlotId};
use lingot_spec::run::Precision;
use std::fmt;
use std::sync::Arc;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 64-bit floats, on `reference` alone.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of f32's range: activations and working weights of a bf16 run.
    Bf16,
    /// 32-bit whole numbers: tokens, indices, counts.
    I32,
}

impl Kind {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Kind::F64 => 8,
            Kind::F32 | Kind::I32 => 4,
            Kind::Bf16 => 2,
        }
    }

    /// The kind's name, as in error texts.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F64 => "f64",
            Kind::F32 => "f32",
            Kind::Bf16 => "bf16",
            Kind::I32 => "i32",
        }
    }

    /// The kind of sums, statistics and losses beside values of this kind: f32 beside bf16, else the same.
    pub fn sums(self) -> Kind {
        if self == Kind::Bf16 { Kind::F32 } else { self }
    }
}

/// The kind that a run of this precision computes in.
impl From<Precision> for Kind {
    fn from(precision: Precision) -> Kind {
        match precision {
            Precision::F32 => Kind::F32,
            Precision::Bf16 => Kind::Bf16,
        }
    }
}

/// The memory of a tensor and of all its views.
struct Memory {
    device: Device,
    held: Held,
}

/// How a tensor has its memory.
enum Held {
    /// Its own: given back when the last view is dropped.
    Own(Slot),
    /// That of the same tensor on another device.
    Lent(Arc<Memory>),
}

impl Memory {
    fn slot(&self) -> &Slot {
        match &self.held {
            Held::Own(slot) => slot,
            Held::Lent(memory) => memory.slot(),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Held::Own(slot) = &mut self.held {
            Backend::release(&self.device, slot.take());
        }
    }
}

/// Up to four dimensions, stored in place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    dims: [usize; 4],
    rank: usize,
}

/// The number of elements of a shape, unless it is too large to be counted.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))
}

impl Shape {
    fn new(dims: &[usize]) -> Shape {
        assert!(dims.len() <= 4, "a tensor has at most four dimensions");
        let mut shape = Shape { dims: [1; 4], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }
}

/// Numbers on a device, contiguous, the last dimension innermost. Clones share memory.
#[derive(Clone)]
pub struct Tensor {
    memory: Arc<Memory>,
    /// Elements before this view's first.
    first: usize,
    shape: Shape,
    kind: Kind,
}

/// Where a tensor lies: the name of its memory, its first byte in it, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The memory's name.
    pub slot: SlotId,
    /// Bytes of that memory before the tensor's first.
    pub offset_bytes: usize,
    /// The tensor's length.
    pub bytes: usize,
}

impl Tensor {
    /// A tensor of all of `slot`, which is memory of `device`.
    pub(crate) fn new(device: Device, slot: Slot, shape: &[usize], kind: Kind) -> Tensor {
        let memory = Arc::new(Memory { device, held: Held::Own(slot) });
        Tensor { memory, first: 0, shape: Shape::new(shape), kind }
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape.dims[..self.shape.rank]
    }

    /// The type of the elements.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The device that holds the tensor.
    pub fn device(&self) -> &Device {
        &self.memory.device
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The dimensions of a tensor whose number of dimensions a front door has checked.
    pub(crate) fn dims<const N: usize>(&self) -> [usize; N] {
        std::array::from_fn(|axis| self.shape()[axis])
    }

    /// The product of all dimensions but the last, and the last.
    pub fn rows_and_width(&self) -> (usize, usize) {
        let width = self.shape().last().copied().unwrap_or(1);
        (self.len().checked_div(width).unwrap_or(0), width)
    }

    /// The same numbers under another shape of as many elements.
    pub fn reshape(&self, shape: &[usize]) -> Tensor {
        assert_eq!(Some(self.len()), elements(shape), "reshape {:?} to {shape:?}", self.shape());
        Tensor { shape: Shape::new(shape), ..self.clone() }
    }

    /// A view of `rows` rows of the outermost dimension, from row `from` on.
    pub fn rows(&self, from: usize, rows: usize) -> Tensor {
        let mut shape = self.shape;
        let rest = shape.dims[0].checked_sub(rows);
        assert!(rest.is_some_and(|rest| from <= rest), "{rows} rows from {from} on of {:?}", self.shape());
        let row = self.len().checked_div(shape.dims[0]).unwrap_or(0);
        shape.dims[0] = rows;
        Tensor { memory: self.memory.clone(), first: self.first + from * row, shape, kind: self.kind }
    }

    /// A tensor of its own in this one's memory, `offset_bytes` after its beginning.
    pub(crate) fn part(&self, offset_bytes: usize, shape: &[usize], kind: Kind) -> Tensor {
        let first = self.first * self.kind.bytes() + offset_bytes;
        assert!(first.is_multiple_of(kind.bytes()), "a part of {} at byte {first}", kind.name());
        let part = Tensor {
            memory: self.memory.clone(),
            first: first / kind.bytes(),
            shape: Shape::new(shape),
            kind,
        };
        assert!(offset_bytes + part.place().bytes <= self.place().bytes, "a part beyond {:?}", self.shape());
        part
    }

    /// The memory that the tensor lies in, whole.
    pub fn slot(&self) -> &Slot {
        self.memory.slot()
    }

    /// Where the tensor lies.
    pub fn place(&self) -> Place {
        Place {
            slot: self.slot().id(),
            offset_bytes: self.first * self.kind.bytes(),
            bytes: self.len() * self.kind.bytes(),
        }
    }

    /// Whether the two share any byte.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        let (one, other) = (self.place(), other.place());
        let [end, other_end] = [one, other].map(|place| place.offset_bytes + place.bytes);
        one.slot == other.slot && one.offset_bytes.max(other.offset_bytes) < end.min(other_end)
    }

    /// The same numbers as a tensor of `device`, for a wrapper to compute with them on the device behind it.
    ///
    /// Both must end at the same backend: on any other, every use of the tensor is refused.
    pub fn on(&self, device: &Device) -> Tensor {
        let memory = Memory { device: device.clone(), held: Held::Lent(self.memory.clone()) };
        Tensor { memory: Arc::new(memory), ..*self }
    }

    /// Overwrites a float tensor, each value rounded to its kind.
    pub fn write_floats(&self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values for {:?}", self.shape());
        match self.kind {
            Kind::F64 => self.write_doubles(&values.iter().map(|&value| value.into()).collect::<Vec<f64>>()),
            Kind::F32 => self.write_bytes(bytemuck::cast_slice(values)),
            Kind::Bf16 => {
                let rounded: Vec<Bf16> = values.iter().map(|&value| Bf16::of(value)).collect();
                self.write_bytes(bytemuck::cast_slice(&rounded))
            }
            Kind::I32 => panic!("floats written to a tensor of whole numbers"),
        }
    }

    /// Overwrites a float tensor, each value rounded once; not at all where it holds f64.
    pub fn write_doubles(&self, values: &[f64]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values for {:?}", self.shape());
        match self.kind {
            Kind::F64 => self.write_bytes(bytemuck::cast_slice(values)),
            Kind::Bf16 => {
                let rounded: Vec<Bf16> = values.iter().map(|&value| Bf16::of_f64(value)).collect();
                self.write_bytes(bytemuck::cast_slice(&rounded))
            }
            _ => self.write_floats(&values.iter().map(|&value| value as f32).collect::<Vec<f32>>()),
        }
    }

    /// Overwrites a tensor of whole numbers.
    pub fn write_integers(&self, values: &[i32]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values for {:?}", self.shape());
        assert_eq!(self.kind, Kind::I32, "whole numbers written to a tensor of floats");
        self.write_bytes(bytemuck::cast_slice(values))
    }

    /// Waits for the device and reads a float tensor.
    pub fn to_floats(&self) -> Result<Vec<f32>> {
        match self.kind {
            Kind::F64 => Ok(self.to_doubles()?.into_iter().map(|value| value as f32).collect()),
            Kind::F32 => self.read_all(),
            Kind::Bf16 => Ok(self.read_all::<Bf16>()?.into_iter().map(Bf16::wide).collect()),
            Kind::I32 => panic!("floats read from whole numbers"),
        }
    }

    /// As `to_floats`, into a vector that is used again: a large one is expensive to allocate.
    pub fn read_floats(&self, floats: &mut Vec<f32>) -> Result<()> {
        if self.kind != Kind::F32 {
            *floats = self.to_floats()?;
            return Ok(());
        }
        self.resize(floats)?;
        self.read_into(bytemuck::cast_slice_mut(floats))
    }

    /// Waits for the device and reads a float tensor as f64.
    pub fn to_doubles(&self) -> Result<Vec<f64>> {
        if matches!(self.kind, Kind::F32 | Kind::Bf16) {
            return Ok(self.to_floats()?.into_iter().map(f64::from).collect());
        }
        assert_eq!(self.kind, Kind::F64, "floats read from whole numbers");
        self.read_all()
    }

    /// Waits for the device and reads a tensor of whole numbers.
    pub fn to_integers(&self) -> Result<Vec<i32>> {
        assert_eq!(self.kind, Kind::I32, "whole numbers read from floats");
        self.read_all()
    }

    fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        Backend::write(self.device(), self.slot(), self.first * self.kind.bytes(), bytes)
    }

    /// Reads all elements in one copy: gradients and weights travel this way in every step of a fleet.
    fn read_all<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        let mut numbers = Vec::new();
        self.resize(&mut numbers)?;
        self.read_into(bytemuck::cast_slice_mut(&mut numbers))?;
        Ok(numbers)
    }

    /// Makes a vector as long as the tensor. Errors if the host has no room for it.
    fn resize<T: bytemuck::Pod>(&self, numbers: &mut Vec<T>) -> Result<()> {
        let more = self.len().saturating_sub(numbers.len());
        numbers.try_reserve_exact(more).map_err(|_| Error::OutOfMemory {
            device: "the host".into(),
            needs_bytes: (self.len() * size_of::<T>()) as u64,
            has_bytes: 0,
        })?;
        numbers.resize(self.len(), T::zeroed());
        Ok(())
    }

    fn read_into(&self, bytes: &mut [u8]) -> Result<()> {
        Backend::read(self.device(), self.slot(), self.first * self.kind.bytes(), bytes)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {}", self.shape(), self.kind.name(), self.device().info().name)
    }
}
