//! Where the numbers of torch's tensors lie: addresses, views of another type, and memory that passes from
//! one tensor to another.
#![allow(unsafe_code)]

use super::Torch;
use super::library::Handle;
use super::refusal::Refusal;
use super::value::{Value, row_major};
use crate::tensor::{Kind, Tensor};
use libloading::os::unix::Library;
use std::ffi::c_void;

type Code = i32;
type Typed = unsafe extern "C" fn(Handle, i64, i32, i64, *const i64, *const i64, *mut Handle) -> Code;

/// The C functions about memory. Their signatures are those of torch's C headers.
pub(super) struct Memory {
    typed: Typed,
    assign: unsafe extern "C" fn(Handle, Handle) -> Code,
    dtype: unsafe extern "C" fn(Handle, *mut i32) -> Code,
    strides: unsafe extern "C" fn(Handle, *mut *const i64) -> Code,
    first: unsafe extern "C" fn(Handle, *mut i64) -> Code,
    bytes: unsafe extern "C" fn(Handle, *mut i64) -> Code,
    data: unsafe extern "C" fn(Handle, *mut *mut c_void) -> Code,
}

impl Memory {
    /// The functions of an opened torch.
    ///
    /// # Safety
    /// The library is torch's, 2.10 or newer, and stays open.
    pub(super) unsafe fn of(library: &Library) -> Result<Memory, libloading::Error> {
        // SAFETY: each function has the type that torch's C headers give it, unchanged since 2.10.
        unsafe {
            Ok(Memory {
                typed: *library.get(b"aoti_torch__alloc_from_pool")?,
                assign: *library.get(b"aoti_torch_assign_tensors")?,
                dtype: *library.get(b"aoti_torch_get_dtype")?,
                strides: *library.get(b"aoti_torch_get_strides")?,
                first: *library.get(b"aoti_torch_get_storage_offset")?,
                bytes: *library.get(b"aoti_torch_get_storage_size")?,
                data: *library.get(b"aoti_torch_get_data_ptr")?,
            })
        }
    }
}

impl Value {
    /// The address of the first number, in the memory of the tensor's device.
    pub(super) fn address(&self) -> Result<*mut c_void, Refusal> {
        let mut data = std::ptr::null_mut();
        // SAFETY: a live tensor; writes one address.
        self.torch().check(unsafe { (self.torch().memory.data)(self.handle(), &raw mut data) })?;
        Ok(data)
    }

    /// Numbers of the type `dtype` over the memory of this tensor, which begins it, from its byte
    /// `first_bytes` on.
    pub(super) fn typed(
        &self,
        dtype: i32,
        sizes: &[i64],
        strides: &[i64],
        first_bytes: usize,
    ) -> Result<Value, Refusal> {
        assert_eq!(sizes.len(), strides.len(), "strides of sizes {sizes:?}");
        let (typed, rank, first) = (self.torch().memory.typed, sizes.len() as i64, first_bytes as i64);
        // SAFETY: as many strides as sizes; torch keeps the storage as long as the view lives.
        Value::made(self.torch(), |out| unsafe {
            typed(self.handle(), first, dtype, rank, sizes.as_ptr(), strides.as_ptr(), out)
        })
    }

    /// Elements from one to the next along each axis.
    pub(super) fn strides(&self) -> Result<Vec<i64>, Refusal> {
        let rank = self.sizes()?.len();
        let mut strides = std::ptr::null();
        // SAFETY: a live tensor, which keeps its strides as long as it lives: as many as its sizes.
        unsafe {
            self.torch().check((self.torch().memory.strides)(self.handle(), &raw mut strides))?;
            Ok((0..rank).map(|axis| *strides.add(axis)).collect())
        }
    }

    /// The same numbers with two axes exchanged.
    pub(super) fn transposed(&self, first: usize, second: usize) -> Result<Value, Refusal> {
        let (mut sizes, mut strides) = (self.sizes()?, self.strides()?);
        sizes.swap(first, second);
        strides.swap(first, second);
        self.strided(&sizes, &strides, 0)
    }

    /// `count` elements along an axis, from `first` on.
    pub(super) fn narrow(&self, axis: usize, first: usize, count: usize) -> Result<Value, Refusal> {
        let (mut sizes, strides) = (self.sizes()?, self.strides()?);
        sizes[axis] = count as i64;
        self.strided(&sizes, &strides, first * strides[axis] as usize)
    }

    /// The same numbers without the axes from `count` on, which are of size 1.
    pub(super) fn first_axes(&self, count: usize) -> Result<Value, Refusal> {
        self.strided(&self.sizes()?[..count], &self.strides()?[..count], 0)
    }

    /// The same numbers with one more axis, of size 1.
    pub(super) fn unsqueezed(&self, axis: usize) -> Result<Value, Refusal> {
        let (mut sizes, mut strides) = (self.sizes()?, self.strides()?);
        sizes.insert(axis, 1);
        strides.insert(axis, 0);
        self.strided(&sizes, &strides, 0)
    }

    /// Whether this tensor holds `bytes` bytes of numbers of the type `dtype`, row by row, and nothing else
    /// lies in its memory.
    fn is_all(&self, dtype: i32, bytes: usize) -> Result<bool, Refusal> {
        let memory = &self.torch().memory;
        let (mut own, mut first, mut all) = (0, 0, 0);
        // SAFETY: a live tensor; each function writes one number.
        unsafe {
            self.torch().check((memory.dtype)(self.handle(), &raw mut own))?;
            self.torch().check((memory.first)(self.handle(), &raw mut first))?;
            self.torch().check((memory.bytes)(self.handle(), &raw mut all))?;
        }
        let (sizes, strides) = (self.sizes()?, self.strides()?);
        let wanted = row_major(&sizes);
        let is_dense = (0..sizes.len()).all(|axis| sizes[axis] == 1 || strides[axis] == wanted[axis]);
        Ok(own == dtype && is_dense && first == 0 && all == bytes as i64)
    }

    /// Makes the tensor behind this one's handle that of `other`.
    fn become_(&self, other: &Value) -> Result<(), Refusal> {
        // SAFETY: both are live tensors. Torch copies a counted reference; the caller sees to it that no
        // other thread uses this handle meanwhile.
        self.torch().check(unsafe { (self.torch().memory.assign)(other.handle(), self.handle()) })
    }
}

impl Torch {
    /// Gives an output the numbers of `value`, a result of torch's that lists them in the same order: by
    /// taking its memory over where both are whole and of one type, else by a copy.
    ///
    /// Memory is only taken over by outputs that a front door has just allocated, so nobody else uses the
    /// slot yet.
    pub(super) fn store(&self, tensor: &Tensor, value: &Value) -> Result<(), Refusal> {
        let (place, dtypes) = (tensor.place(), self.torch.dtypes);
        let is_whole = place.offset_bytes == 0 && place.bytes == tensor.slot().bytes();
        let dtype = if tensor.kind() == Kind::Bf16 { dtypes.bf16 } else { dtypes.f32 };
        let is_float = matches!(tensor.kind(), Kind::F32 | Kind::Bf16);
        if is_float && is_whole && place.bytes.is_multiple_of(4) && value.is_all(dtype, place.bytes)? {
            let floats = value.typed(dtypes.f32, &[place.bytes as i64 / 4], &[1], 0)?;
            return self.with_slot(tensor.slot(), |slot| slot.become_(&floats));
        }
        self.reshaped(tensor, &value.sizes()?)?.set(value)
    }
}
