//! What a launch is made of: addresses of tensors, torch's current stream, and the kernel's name by kind.

use super::super::Torch;
use super::super::counts;
use super::super::refusal::Refusal;
use super::super::value::Value;
use crate::kernels::{Argument, Kernels, THREADS};
use crate::tensor::Tensor;
use libloading::os::unix::Library;
use std::ffi::c_void;

/// Threads of a warp by which grids are sized. A chip with wider ones starts more blocks than it needs.
const WARP: usize = 32;

/// No grid is larger: kernels loop over what is left. Enough to fill any chip several times.
const MOST_BLOCKS: usize = 1 << 14;

/// The kernels of a device with what launches need of torch.
pub(in super::super) struct Started {
    kernels: Kernels,
    /// The index of the device among those of its type.
    index: i32,
    /// The stream that torch enqueues on; none on the host.
    stream: Option<unsafe extern "C" fn(i32, *mut *mut c_void) -> i32>,
}

impl Started {
    /// Finds torch's function for a device; `index` is negative on the host.
    pub(super) fn new(kernels: Kernels, index: i32) -> Result<Started, String> {
        if index < 0 {
            return Ok(Started { kernels, index, stream: None });
        }
        // SAFETY: torch is open with its functions visible, and this one has the type of its C headers.
        let stream =
            unsafe { Library::this().get(b"aoti_torch_get_current_cuda_stream").map(|found| *found) };
        let stream = stream.map_err(|_| "torch has no `aoti_torch_get_current_cuda_stream`")?;
        Ok(Started { kernels, index, stream: Some(stream) })
    }

    /// Kernels started so far.
    pub(super) fn launches(&self) -> u64 {
        self.kernels.launches()
    }
}

/// One op on its way to the device.
pub(in super::super) struct Call<'a> {
    pub(in super::super) torch: &'a Torch,
    pub(in super::super) started: &'a Started,
}

impl Call<'_> {
    /// The address of a tensor's first element.
    pub(super) fn tensor(&self, tensor: &Tensor) -> Result<Argument, Refusal> {
        let first = self.torch.with_slot(tensor.slot(), |slot| self.value(slot))?;
        Ok(first.after(tensor.place().offset_bytes))
    }

    /// The address of a tensor, or 0 for none.
    pub(super) fn optional(&self, tensor: Option<&Tensor>) -> Result<Argument, Refusal> {
        tensor.map_or(Ok(Argument::NULL), |tensor| self.tensor(tensor))
    }

    /// The address of a tensor of torch's own.
    pub(super) fn value(&self, value: &Value) -> Result<Argument, Refusal> {
        Ok(Argument::address(value.address()?.expose_provenance() as u64))
    }

    /// Words of the host's, 8 bytes each, on the device.
    pub(super) fn words(&self, words: &[u64]) -> Result<Value, Refusal> {
        let (count, i64) = (words.len(), self.torch.torch.dtypes.i64);
        let to = self.torch.empty(&[count as i64], i64)?;
        self.torch.upload(&to, bytemuck::cast_slice(words), i64)?;
        Ok(to)
    }

    /// Adds the sum over the rows of `parts`, f32 `[rows, width]`, to `out`.
    pub(super) fn add_columns(
        &self,
        parts: &Value,
        [rows, width]: [usize; 2],
        out: &Tensor,
    ) -> Result<(), Refusal> {
        let columns = width.next_power_of_two().min(8);
        let arguments = [self.value(parts)?, self.tensor(out)?, rows.into(), width.into(), columns.into()];
        self.launch("add_columns", width.div_ceil(columns), &arguments)
    }

    /// Enqueues a kernel with up to `blocks` blocks on torch's current stream.
    ///
    /// Callers give the kernel's arguments as its structure declares them, of tensors that live: torch keeps
    /// what is freed later until its stream has come by.
    pub(super) fn launch(&self, name: &str, blocks: usize, arguments: &[Argument]) -> Result<(), Refusal> {
        counts::launch();
        let mut stream = std::ptr::null_mut();
        if let Some(current) = self.started.stream {
            // SAFETY: writes one handle.
            self.torch.torch.check(unsafe { current(self.started.index, &raw mut stream) })?;
        }
        let blocks = blocks.min(MOST_BLOCKS);
        // SAFETY: the front doors have checked the tensors' sizes, and tests each kernel's arguments.
        unsafe { self.started.kernels.launch(name, blocks, stream, arguments) }.map_err(Refusal::from)
    }
}

/// Elements that a thread reads at once: `CHUNK` of the prelude.
pub(super) const CHUNK: usize = 8;

/// Whether rows of `width` elements of bf16 or f32 can be read 16 bytes at a time at all of these addresses.
pub(super) fn in_chunks(addresses: &[Argument], width: usize) -> bool {
    width.is_multiple_of(CHUNK) && addresses.iter().all(|address| address.is_multiple_of(16))
}

/// Blocks with a thread for each of `items`.
pub(super) fn thread_per(items: usize) -> usize {
    items.div_ceil(THREADS)
}

/// Blocks with a warp for each row.
pub(super) fn warp_per_row(rows: usize) -> usize {
    rows.div_ceil(THREADS / WARP)
}

/// The kernel's name for values of a kind.
macro_rules! of_kind {
    ($kind:expr, $name:literal) => {
        if $kind == crate::tensor::Kind::Bf16 { concat!($name, "_bf16") } else { concat!($name, "_f32") }
    };
}
pub(super) use of_kind;
