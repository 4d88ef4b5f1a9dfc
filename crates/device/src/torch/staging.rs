//! Copies to the device, from memory that the device reads by itself where there is such memory, so that the
//! host need not wait.
//!
//! The host's numbers are copied to pinned memory of torch's host allocator. It hands a piece out again only
//! after the copies that were enqueued from it are done, so the piece can be given back at once.
#![allow(unsafe_code)]

use super::Torch;
use super::counts::{launch, wait};
use super::library::{Handle, Symbols};
use super::refusal::Refusal;
use super::value::Value;
use libloading::os::unix::Library;

type Code = i32;
type Pinned = unsafe extern "C" fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> Code;

/// Larger copies are waited for: pinned memory is expensive to allocate, and torch keeps it.
const MOST_BYTES: usize = 4 << 20;

/// The C function for it. Its signature is that of torch's C headers.
pub(super) struct Staging {
    pinned: Pinned,
}

impl Staging {
    /// The function of an opened torch.
    ///
    /// # Safety
    /// The library is torch's, 2.10 or newer, and stays open.
    pub(super) unsafe fn of(library: &Library) -> Result<Staging, libloading::Error> {
        // SAFETY: the function has the type that torch's C headers give it, unchanged since 2.10.
        Ok(Staging { pinned: unsafe { *library.get(b"aoti_torch_empty_strided_pinned")? } })
    }

    /// A copy of the host's bytes in pinned memory, flat numbers of the type `dtype`.
    fn copied(&self, torch: &'static Symbols, from: &[u8], dtype: i32) -> Result<Value, Refusal> {
        let (sizes, strides) = ([from.len() as i64 / torch.dtypes.bytes(dtype)], [1_i64]);
        // SAFETY: as many strides as sizes.
        let staged = Value::made(torch, |out| unsafe {
            (self.pinned)(1, sizes.as_ptr(), strides.as_ptr(), dtype, torch.cpu, -1, out)
        })?;
        let data = staged.address()?;
        if data.is_null() {
            return Err("pinned memory has no address".into());
        }
        // SAFETY: memory of the host's, as long as `from`, that nobody else knows.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), data.cast(), from.len()) };
        Ok(staged)
    }
}

impl Torch {
    /// Copies the host's bytes to a flat tensor of the device's, of the type `dtype` and as long. Waits for
    /// the copy if it is large, or if the device has no pinned memory.
    pub(super) fn upload(&self, to: &Value, from: &[u8], dtype: i32) -> Result<(), Refusal> {
        if from.is_empty() {
            return Ok(());
        }
        if self.routes.pinned.is_found() && from.len() <= MOST_BYTES {
            return self.stage(to, from, dtype);
        }
        if !self.on_cpu() {
            wait();
        }
        let (data, count) =
            (from.as_ptr().cast_mut().cast(), from.len() as i64 / self.torch.dtypes.bytes(dtype));
        // SAFETY: only read, and the copy waits, so it is done before `from` can go.
        to.set(&unsafe { Value::on_host(self.torch, data, count as usize, dtype) }?)
    }

    fn stage(&self, to: &Value, from: &[u8], dtype: i32) -> Result<(), Refusal> {
        let staged = self.torch.staging.copied(self.torch, from, dtype)?;
        launch();
        // SAFETY: both are live tensors; torch keeps the pinned memory until the copy is done.
        self.torch.check(unsafe { (self.torch.copy)(to.handle(), staged.handle(), 1) })
    }

    /// Whether what is copied by way of pinned memory arrives.
    pub(super) fn try_pinned(&self) -> Result<(), Refusal> {
        if self.on_cpu() {
            return Err("nothing is copied".into());
        }
        let dtype = self.torch.dtypes.f32;
        let to = self.full(&[2], dtype, 0.0)?;
        self.stage(&to, bytemuck::cast_slice(&[0.0_f32, 7.0]), dtype)?;
        let found = self.first(&to.shaped(&[1], 1)?)?;
        if found == 7.0 { Ok(()) } else { Err(format!("7 arrives as {found}").into()) }
    }
}
