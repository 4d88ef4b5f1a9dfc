//! Any chip that has a PyTorch: the user's own libtorch, opened at run time through its stable C functions.
//!
//! So far `torch:cpu`, and of the alphabet matmul, add and fill in f32.
#![allow(unsafe_code)]

mod library;

use crate::backend::{Backend, DeviceInfo, Slot};
use crate::error::Result;
use crate::op::Op;
use crate::tensor::{Kind, Tensor};
use library::{Handle, Symbols, unsupported};
use std::ffi::c_void;

/// torch's numbers of element types and of the CPU.
const F32: i32 = 6;
const CPU: i32 = 0;

/// A device of the user's torch.
pub struct Torch {
    info: DeviceInfo,
    torch: Symbols,
}

/// A handle that is given back.
struct Owned<'a>(&'a Symbols, Handle);

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and nobody uses it after this.
        unsafe { (self.0.delete)(self.1) };
    }
}

impl Torch {
    /// Opens `torch:cpu`.
    pub fn open(name: &str) -> Result<Torch> {
        if name != "torch:cpu" {
            let hint = "`torch:cpu` is the one torch device there is so far";
            return Err(unsupported(name, "this torch device cannot be opened yet".into(), hint));
        }
        let torch = Symbols::open(name)?;
        let version = format!("torch {}.{}", torch.version >> 56, torch.version >> 48 & 255);
        let info = DeviceInfo { name: name.into(), description: version, memory_bytes: 0, threads: 0 };
        Ok(Torch { info, torch })
    }

    fn made(&self, what: &str, make: impl FnOnce(*mut Handle) -> i32) -> Result<Owned<'_>> {
        let mut handle = std::ptr::null_mut();
        let code = make(&mut handle);
        self.torch.check(&self.info.name, what, code)?;
        Ok(Owned(&self.torch, handle))
    }

    /// Rows and columns of a f32 tensor, read transposed where `flip` says so.
    fn matrix(&self, tensor: &Tensor, flip: bool) -> Result<Owned<'_>> {
        if tensor.kind() != Kind::F32 {
            let what = format!("{} tensors are not computed with", tensor.kind().name());
            return Err(unsupported(&self.info.name, what, "use f32"));
        }
        let (slot, first_bytes, _) = tensor.place();
        let (rows, width) = tensor.rows_and_width();
        let (rows, width) = (rows as i64, width as i64);
        let (sizes, strides) = if flip { ([width, rows], [1, width]) } else { ([rows, width], [width, 1]) };
        let bytes: Handle = std::ptr::with_exposed_provenance_mut(slot.0 as usize);
        let first = first_bytes as i64 / 4;
        // SAFETY: the slot holds f32 elements (see `allocate`), and the view lies inside it.
        self.made("view", |out| unsafe {
            (self.torch.view)(bytes, 2, sizes.as_ptr(), strides.as_ptr(), first, out)
        })
    }

    fn copy(&self, to: &Owned<'_>, from: &Owned<'_>) -> Result<()> {
        // SAFETY: both are live tensors of one shape.
        self.torch.check(&self.info.name, "copy_", unsafe { (self.torch.copy)(to.1, from.1, 0) })
    }

    /// `out += x`, torch's own addition being closed to this door.
    fn add(&self, out: &Owned<'_>, x: &Owned<'_>) -> Result<()> {
        // SAFETY: both are live tensors of one shape.
        let sum = self.made("sub.Tensor", |sum| unsafe { (self.torch.subtract)(out.1, x.1, -1.0, sum) })?;
        self.copy(out, &sum)
    }

    fn product(&self, a: &Owned<'_>, b: &Owned<'_>) -> Result<Owned<'_>> {
        // SAFETY: `aten::mm(Tensor, Tensor) -> Tensor`; the call consumes the new references on the stack.
        unsafe {
            let mut stack = [0_u64; 2];
            for (slot, operand) in stack.iter_mut().zip([a, b]) {
                let mut again = std::ptr::null_mut();
                self.torch.check(&self.info.name, "mm", (self.torch.again)(operand.1, &mut again))?;
                *slot = again as u64;
            }
            let version = self.torch.version;
            let code = (self.torch.call)(c"aten::mm".as_ptr(), c"".as_ptr(), stack.as_mut_ptr(), version);
            self.torch.check(&self.info.name, "aten::mm", code)?;
            Ok(Owned(&self.torch, stack[0] as Handle))
        }
    }

    /// A host slice as a flat f32 tensor, for the time of a copy.
    fn blob(&self, data: *mut c_void, bytes: usize) -> Result<Owned<'_>> {
        let (sizes, strides) = ([bytes as i64 / 4], [1_i64]);
        let (sizes, strides) = (sizes.as_ptr(), strides.as_ptr());
        // SAFETY: the caller keeps the memory alive while the tensor lives.
        self.made("from_blob", |out| unsafe {
            (self.torch.blob)(data, 1, sizes, strides, 0, F32, CPU, -1, out)
        })
    }
}

impl Torch {
    /// A stretch of a slot, flat.
    fn stretch(&self, slot: Slot, first_bytes: usize, bytes: usize) -> Result<Owned<'_>> {
        let tensor: Handle = std::ptr::with_exposed_provenance_mut(slot.0 as usize);
        let (sizes, strides, first) = ([bytes as i64 / 4], [1_i64], first_bytes as i64 / 4);
        // SAFETY: `Tensor` keeps its views inside its slot.
        self.made("view", |out| unsafe {
            (self.torch.view)(tensor, 1, sizes.as_ptr(), strides.as_ptr(), first, out)
        })
    }
}

impl Backend for Torch {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Elements of four bytes; what they mean is up to the op.
    fn allocate(&self, bytes: usize) -> Result<Slot> {
        let (sizes, strides) = ([bytes.div_ceil(4) as i64], [1_i64]);
        // SAFETY: one size and one stride for one dimension.
        let tensor = self.made("empty_strided", |out| unsafe {
            (self.torch.empty)(1, sizes.as_ptr(), strides.as_ptr(), F32, CPU, -1, out)
        })?;
        let slot = Slot(tensor.1.expose_provenance() as u64);
        std::mem::forget(tensor);
        Ok(slot)
    }

    fn release(&self, slot: Slot, _bytes: usize) {
        drop(Owned(&self.torch, std::ptr::with_exposed_provenance_mut(slot.0 as usize)));
    }

    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        let host = self.blob(from_host.as_ptr().cast_mut().cast(), from_host.len())?;
        self.copy(&self.stretch(slot, offset_bytes, from_host.len())?, &host)
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        let host = self.blob(to_host.as_mut_ptr().cast(), to_host.len())?;
        self.copy(&host, &self.stretch(slot, offset_bytes, to_host.len())?)
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        match op {
            Op::MatMul { a, b, out, flip, add } => {
                let product = self.product(&self.matrix(a, flip.a)?, &self.matrix(b, flip.b)?)?;
                let out = self.matrix(out, false)?;
                if add { self.add(&out, &product) } else { self.copy(&out, &product) }
            }
            Op::Add { x, out } => self.add(&self.matrix(out, false)?, &self.matrix(x, false)?),
            Op::Fill { out, value } if out.kind() == Kind::F32 => {
                let out = self.matrix(out, false)?;
                // SAFETY: a live tensor.
                self.torch.check(&self.info.name, "fill_", unsafe { (self.torch.fill)(out.1, value) })
            }
            other => {
                let what = format!("`{}` cannot be computed by torch yet", other.name());
                Err(unsupported(&self.info.name, what, "use device.name = \"cpu\""))
            }
        }
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
