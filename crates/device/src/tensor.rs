//! Tensors: a shape, a kind of element, and a piece of a device's memory that is given back when nobody holds it.

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::Result;
use crate::op::Op;
use std::fmt;
use std::sync::Arc;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    F64,
    F32,
    I32,
}

impl Kind {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Kind::F64 => 8,
            Kind::F32 | Kind::I32 => 4,
        }
    }

    /// As in error texts.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F64 => "f64",
            Kind::F32 => "f32",
            Kind::I32 => "i32",
        }
    }
}

/// A device that holds tensors and runs ops. Cheap to clone; every tensor carries one.
#[derive(Clone)]
pub struct Device(Arc<dyn Backend>);

impl Device {
    /// A device on top of `backend`.
    pub fn new(backend: impl Backend + 'static) -> Device {
        Device(Arc::new(backend))
    }

    pub fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    /// Enqueues one op. Use the front doors in [`crate::ops`], which check their arguments first.
    pub fn run(&self, op: Op<'_>) -> Result<()> {
        self.0.run(op)
    }

    /// Waits for all enqueued work.
    pub fn finish(&self) -> Result<()> {
        self.0.finish()
    }

    pub fn memory_in_use(&self) -> MemoryUse {
        self.0.memory_in_use()
    }

    /// Whether both are the same device.
    pub fn is(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A tensor of unspecified content.
    pub fn empty(&self, shape: &[usize], kind: Kind) -> Result<Tensor> {
        let bytes = shape.iter().product::<usize>() * kind.bytes();
        let slot = self.0.allocate(bytes)?;
        let memory = Arc::new(Memory { device: self.clone(), slot, bytes });
        Ok(Tensor { memory, first: 0, shape: Shape::new(shape), kind })
    }

    /// A tensor of zeros.
    pub fn zeros(&self, shape: &[usize], kind: Kind) -> Result<Tensor> {
        let tensor = self.empty(shape, kind)?;
        crate::ops::fill(&tensor, 0.0)?;
        Ok(tensor)
    }

    /// A tensor of `kind` (f32 or f64) with the given values, rounded if need be.
    pub fn floats(&self, values: &[f32], shape: &[usize], kind: Kind) -> Result<Tensor> {
        let tensor = self.empty(shape, kind)?;
        tensor.write_floats(values)?;
        Ok(tensor)
    }

    /// A tensor of whole numbers.
    pub fn integers(&self, values: &[i32], shape: &[usize]) -> Result<Tensor> {
        let tensor = self.empty(shape, Kind::I32)?;
        tensor.write_integers(values)?;
        Ok(tensor)
    }
}

/// A device is a backend too, so that another can stand before it: see [`crate::timed`].
impl Backend for Device {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.0.allocate(bytes)
    }

    fn release(&self, slot: Slot, bytes: usize) {
        self.0.release(slot, bytes);
    }

    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.0.write(slot, offset_bytes, from_host)
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.0.read(slot, offset_bytes, to_host)
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        self.0.run(op)
    }

    fn finish(&self) -> Result<()> {
        self.0.finish()
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.0.memory_in_use()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.info().name)
    }
}

struct Memory {
    device: Device,
    slot: Slot,
    bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.0.release(self.slot, self.bytes);
    }
}

/// Up to four dimensions, stored in place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    dims: [usize; 4],
    rank: usize,
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

impl Tensor {
    pub fn shape(&self) -> &[usize] {
        &self.shape.dims[..self.shape.rank]
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn device(&self) -> &Device {
        &self.memory.device
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The product of all dimensions but the last, and the last.
    pub fn rows_and_width(&self) -> (usize, usize) {
        let width = self.shape().last().copied().unwrap_or(1);
        (self.len().checked_div(width).unwrap_or(0), width)
    }

    /// The same numbers under another shape of as many elements.
    pub fn reshape(&self, shape: &[usize]) -> Tensor {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "reshape {:?} to {shape:?}", self.shape());
        Tensor { shape: Shape::new(shape), ..self.clone() }
    }

    /// A view of `rows` rows of the outermost dimension, from row `from` on.
    pub fn rows(&self, from: usize, rows: usize) -> Tensor {
        let mut shape = self.shape;
        assert!(from + rows <= shape.dims[0], "rows {from}..{} of {:?}", from + rows, self.shape());
        let row = self.len().checked_div(shape.dims[0]).unwrap_or(0);
        shape.dims[0] = rows;
        Tensor { memory: self.memory.clone(), first: self.first + from * row, shape, kind: self.kind }
    }

    /// The memory, and the view's first byte and length in it: for backends.
    pub fn place(&self) -> (Slot, usize, usize) {
        (self.memory.slot, self.first * self.kind.bytes(), self.len() * self.kind.bytes())
    }

    /// Whether the two share any byte.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        let (slot, first, bytes) = self.place();
        let (other_slot, other_first, other_bytes) = other.place();
        self.device().is(other.device())
            && slot == other_slot
            && first < other_first + other_bytes
            && other_first < first + bytes
    }

    /// Overwrites a float tensor.
    pub fn write_floats(&self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values for {:?}", self.shape());
        match self.kind {
            Kind::F64 => self.write_doubles(&values.iter().map(|&value| value.into()).collect::<Vec<f64>>()),
            Kind::F32 => self.write_bytes(bytemuck::cast_slice(values)),
            Kind::I32 => panic!("floats written to a tensor of whole numbers"),
        }
    }

    /// Overwrites a float tensor without rounding where it holds f64.
    pub fn write_doubles(&self, values: &[f64]) -> Result<()> {
        assert_eq!(values.len(), self.len(), "values for {:?}", self.shape());
        match self.kind {
            Kind::F64 => self.write_bytes(bytemuck::cast_slice(values)),
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
        if self.kind == Kind::F64 {
            return Ok(self.to_doubles()?.into_iter().map(|value| value as f32).collect());
        }
        assert_eq!(self.kind, Kind::F32, "floats read from whole numbers");
        self.read_all()
    }

    /// As `to_floats`, into a vector that may be there already: a large one is dear to make.
    pub fn read_floats(&self, floats: &mut Vec<f32>) -> Result<()> {
        if self.kind != Kind::F32 {
            *floats = self.to_floats()?;
            return Ok(());
        }
        floats.resize(self.len(), 0.0);
        self.read_into(bytemuck::cast_slice_mut(floats))
    }

    /// Waits for the device and reads a float tensor as f64.
    pub fn to_doubles(&self) -> Result<Vec<f64>> {
        if self.kind == Kind::F32 {
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
        self.device().0.write(self.memory.slot, self.first * self.kind.bytes(), bytes)
    }

    /// Whole, as one copy: gradients and weights travel this way in every step of a fleet.
    fn read_all<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        let mut numbers = vec![T::zeroed(); self.len()];
        self.read_into(bytemuck::cast_slice_mut(&mut numbers))?;
        Ok(numbers)
    }

    fn read_into(&self, bytes: &mut [u8]) -> Result<()> {
        self.device().0.read(self.memory.slot, self.first * self.kind.bytes(), bytes)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {}", self.shape(), self.kind.name(), self.device().info().name)
    }
}
