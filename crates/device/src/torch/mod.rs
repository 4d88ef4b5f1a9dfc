//! Any chip that has a PyTorch: the user's own libtorch, opened at run time through its stable C functions.
//!
//! No Python, no C++ and nothing of torch's at build time. A slot is a flat tensor of f32, on the device; operands are
//! views of it. Ops are compositions of torch's operators, with a fused one where the device has it. Reading order:
//! `library`, `value`, `aten`, then any op.
#![allow(unsafe_code)]

mod adamw;
mod aten;
mod attention;
mod attention_composed;
mod attention_fused;
mod balance_bias;
mod combine;
mod cross_entropy;
mod dispatch;
mod elementwise;
mod embedding;
mod grouped_matmul;
mod known;
mod library;
mod matmul;
mod norm_head;
mod probe;
mod rms_norm;
mod rope;
mod route;
mod route_grad;
mod routes;
mod run;
mod selection;
mod sort_by_expert;
mod sums;
mod swiglu;
mod value;

use crate::backend::{Backend, DeviceInfo, MemoryUse, Slot};
use crate::error::{Error, Result};
use crate::op::Op;
use crate::precision::Precision;
use crate::tensor::{Kind, Tensor};
use aten::{Aten, Dtype};
use known::Known;
use library::{Symbols, unsupported};
use rope::RopeTable;
use routes::Routes;
use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use value::{Value, Words};

/// How a torch device is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub precision: Precision,
    /// Threads that torch computes with on the CPU; 0 for its own choice.
    pub threads: usize,
    /// Leave out what not every chip has: fused operators, and f64.
    pub composed_only: bool,
}

/// A device of the user's torch.
pub struct Torch {
    info: DeviceInfo,
    torch: &'static Symbols,
    /// torch's number of the device's type, and the device's index.
    place: (i32, i32),
    options: Options,
    /// Whether f64 exists there.
    has_f64: bool,
    routes: Routes,
    /// One number there: a device that does not read it out any more is lost.
    pulse: Value,
    state: Mutex<State>,
}

/// What is kept from op to op.
#[derive(Default)]
struct State {
    memory: MemoryUse,
    known: Known,
    rope: HashMap<(usize, u64), Arc<RopeTable>>,
    /// 0, 1, 2, ... as i64.
    counting: Option<(usize, Arc<Value>)>,
    scratch: Option<Arc<adamw::Scratch>>,
}

impl Torch {
    /// Opens a device by its name here, `torch:` and torch's own name for it: `torch:cpu`, `torch:cuda:0`, `torch:npu:0`.
    ///
    /// libtorch is looked for in `LINGOT_TORCH`, else in the active Python environment; a chip's own libraries in
    /// `LINGOT_TORCH_EXTENSION`, a list of paths.
    pub fn open(name: &str, options: Options) -> Result<Torch> {
        let known = name.strip_prefix("torch:").unwrap_or_default();
        if known.is_empty() {
            let hint =
                "a device of torch's is called `torch:cpu`, `torch:cuda:0`, `torch:npu:0` and the like";
            return Err(unsupported(name, "the name does not say which device of torch's".into(), hint));
        }
        let torch = Symbols::open(name)?;
        open_extensions(name)?;
        torch.prepare_thread(options.threads);
        let place = torch.parse_device(name, known)?;
        torch.open_beside(name, known)?;
        let place = if place.0 == torch.cpu { (place.0, -1) } else { (place.0, place.1.max(0)) };
        let on_cpu = place.0 == torch.cpu;
        if on_cpu {
            library::keep_freed_memory();
        }
        let emulated = if on_cpu && options.precision == Precision::Bf16 { ", bf16 emulated" } else { "" };
        let threads = if on_cpu { torch.threads() } else { 0 };
        let count = if on_cpu { format!(", {threads} threads") } else { String::new() };
        let info = DeviceInfo {
            name: name.into(),
            description: format!("torch {}{count}{emulated}", torch.version()),
            memory_bytes: if on_cpu { crate::cpu::memory_bytes() } else { 0 },
            threads,
        };
        let (routes, state) = (Routes::default(), Mutex::default());
        // The first tensor there wakes the device, or tells why it cannot.
        let wake = |dtype: i32| {
            let one = Value::empty(torch, &[1], dtype, place)?;
            one.fill(1.0).map(|()| one)
        };
        let pulse = wake(torch.dtypes.f32).map_err(|words| {
            unsupported(name, format!("torch {}: {words}", torch.version()), "the words are torch's")
        })?;
        let mut opened = Torch { info, torch, place, options, has_f64: false, routes, pulse, state };
        opened.has_f64 = !options.composed_only && wake(torch.dtypes.f64).is_ok();
        if !options.composed_only {
            opened.routes = Routes::of(&opened);
        }
        Ok(opened)
    }

    /// Tensors of torch's that this process holds now: nothing may keep them from step to step.
    pub fn live_handles() -> i64 {
        value::live()
    }

    /// Where a torch is, and which: what `lingot devices` says of it.
    pub fn found() -> Result<(PathBuf, String)> {
        let torch = Symbols::open("torch")?;
        Ok((torch.path.clone(), torch.version()))
    }

    /// How ops reach the device, a line each.
    pub fn routes(&self) -> Vec<String> {
        self.routes.text(self)
    }

    fn on_cpu(&self) -> bool {
        self.place.0 == self.torch.cpu
    }

    fn aten(&self) -> Aten {
        Aten(self.torch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What torch keeps by thread is set once in each that calls.
    fn prepare_thread(&self) {
        thread_local!(static PREPARED: Cell<Option<usize>> = const { Cell::new(None) });
        if PREPARED.get() != Some(self.options.threads) {
            self.torch.prepare_thread(self.options.threads);
            PREPARED.set(Some(self.options.threads));
        }
    }

    /// Puts torch's words into an error that names the op.
    fn failed(&self, what: &str, words: &str) -> Error {
        let device = &self.info.name;
        if self.first(&self.pulse).is_err() {
            let reason = format!("{what}: {words}; the device answers no more");
            return Error::Lost { device: device.clone(), reason };
        }
        if let Some(needs_bytes) = bytes_refused(words) {
            let has_bytes = self.info.memory_bytes.saturating_sub(self.state().memory.now_bytes);
            return Error::OutOfMemory { device: device.clone(), needs_bytes, has_bytes };
        }
        let hint = "the last words are torch's; device.name = \"cpu\" needs no torch";
        unsupported(device, format!("{what}: {words}"), hint)
    }
}

/// The makers' libraries, each opened once, before a device of theirs is named.
fn open_extensions(device: &str) -> Result<()> {
    static OPENED: Mutex<Vec<PathBuf>> = Mutex::new(vec![]);
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let paths = std::env::var_os("LINGOT_TORCH_EXTENSION").unwrap_or_default();
    for path in std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()) {
        if !opened.contains(&path) {
            std::mem::forget(library::open_library(device, &path)?);
            opened.push(path);
        }
    }
    Ok(())
}

/// The bytes that an allocator of torch's did not find, where that is what its words say.
fn bytes_refused(words: &str) -> Option<u64> {
    let (_, after) = words.split_once("ried to allocate ")?;
    let mut parts = after.split_whitespace();
    let number: f64 = parts.next()?.parse().ok()?;
    let unit = match parts.next()?.trim_end_matches('.') {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => 1.0,
    };
    Some((number * unit) as u64)
}

/// Operands, as views of slots.
impl Torch {
    /// The slot that a tensor lies in, as long as the tensor lives.
    fn with_slot<R>(&self, slot: Slot, use_: impl FnOnce(&Value) -> R) -> R {
        let value = std::mem::ManuallyDrop::new(Value::from_number(self.torch, slot.0));
        use_(&value)
    }

    /// A f32 tensor under its own shape.
    fn floats(&self, tensor: &Tensor) -> std::result::Result<Value, Words> {
        self.reshaped(tensor, &sizes(tensor.shape()))
    }

    /// A f32 tensor under other sizes.
    fn reshaped(&self, tensor: &Tensor, sizes: &[i64]) -> std::result::Result<Value, Words> {
        self.strided(tensor, sizes, &value::row_major(sizes), 0)
    }

    /// Other sizes and strides over a f32 tensor, from its element `first` on.
    fn strided(
        &self,
        tensor: &Tensor,
        sizes: &[i64],
        strides: &[i64],
        first: usize,
    ) -> std::result::Result<Value, Words> {
        if tensor.kind() != Kind::F32 {
            return Err(format!("{} tensors are not computed with; use f32", tensor.kind().name()));
        }
        let (slot, first_bytes, _) = tensor.place();
        self.with_slot(slot, |slot| slot.strided(sizes, strides, first_bytes / 4 + first))
    }

    /// A tensor of any kind, flat.
    fn flat(&self, tensor: &Tensor) -> std::result::Result<Value, Words> {
        let (slot, first_bytes, bytes) = tensor.place();
        let elements = self.with_slot(slot, |slot| slot.shaped(&[bytes as i64 / 4], first_bytes / 4))?;
        match tensor.kind() {
            Kind::F32 => Ok(elements),
            Kind::F64 => self.aten().view_dtype(&elements, Dtype(self.torch.dtypes.f64)),
            Kind::I32 => self.aten().view_dtype(&elements, Dtype(self.torch.dtypes.i32)),
        }
    }

    /// Whole numbers as torch's indices, i64.
    fn indices(&self, tensor: &Tensor, sizes: &[i64]) -> std::result::Result<Value, Words> {
        let wide = self.empty(sizes, self.torch.dtypes.i64)?;
        wide.set(&self.flat(tensor)?.shaped(sizes, 0)?)?;
        Ok(wide)
    }

    /// Writes whole numbers of any type into an i32 tensor.
    fn store_integers(&self, tensor: &Tensor, values: &Value) -> std::result::Result<(), Words> {
        let narrow = self.empty(&sizes(tensor.shape()), self.torch.dtypes.i32)?;
        narrow.set(values)?;
        // Through a copy of the same bits: not every chip can give a view another type.
        let bits = self.aten().view_dtype(&narrow, Dtype(self.torch.dtypes.f32))?;
        let (slot, first_bytes, _) = self.written(tensor).place();
        self.with_slot(slot, |slot| slot.shaped(&sizes(tensor.shape()), first_bytes / 4))?.set(&bits)
    }

    /// Whole numbers on the host. Waits for the device the first time.
    fn integers(&self, tensor: &Tensor) -> std::result::Result<Arc<[i32]>, Words> {
        if let Some(known) = self.state().known.get(tensor) {
            return Ok(known);
        }
        let (slot, first_bytes, bytes) = tensor.place();
        let mut numbers = vec![0; bytes];
        self.copy_out(slot, first_bytes, &mut numbers)?;
        let numbers: Arc<[i32]> =
            numbers.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        self.state().known.insert(tensor, numbers.clone());
        Ok(numbers)
    }

    /// A tensor that is about to be written to: what the host knows of it is so no longer.
    fn written<'a>(&self, tensor: &'a Tensor) -> &'a Tensor {
        self.state().known.forget(tensor.place().0);
        tensor
    }

    fn empty(&self, sizes: &[i64], dtype: i32) -> std::result::Result<Value, Words> {
        Value::empty(self.torch, sizes, dtype, self.place)
    }

    fn full(&self, sizes: &[i64], dtype: i32, value: f64) -> std::result::Result<Value, Words> {
        let full = self.empty(sizes, dtype)?;
        full.fill(value)?;
        Ok(full)
    }

    /// The same numbers in another type.
    fn converted(&self, x: &Value, sizes: &[i64], dtype: i32) -> std::result::Result<Value, Words> {
        let to = self.empty(sizes, dtype)?;
        to.set(x)?;
        Ok(to)
    }

    /// Floats of the host's, on the device.
    fn hosted(&self, values: &[f32], sizes: &[i64]) -> std::result::Result<Value, Words> {
        let to = self.empty(sizes, self.torch.dtypes.f32)?;
        if !values.is_empty() {
            let data = values.as_ptr().cast_mut().cast();
            // SAFETY: only read, and the copy is done before `values` can go.
            let host = unsafe { Value::on_host(self.torch, data, values.len(), self.torch.dtypes.f32) }?;
            to.set(&host.shaped(sizes, 0)?)?;
        }
        Ok(to)
    }

    /// Whole numbers of the host's, on the device, as i32.
    fn whole_numbers(&self, values: &[i32]) -> std::result::Result<Value, Words> {
        let (i32, count) = (self.torch.dtypes.i32, values.len());
        let to = self.empty(&[count as i64], i32)?;
        let data = values.as_ptr().cast_mut().cast();
        // SAFETY: only read, and the copy is done before `values` can go.
        to.set(&unsafe { Value::on_host(self.torch, data, count, i32) }?)?;
        Ok(to)
    }

    /// 0, 1, 2, ... as i64, at least `count` of them.
    fn counting(&self, count: usize) -> std::result::Result<Arc<Value>, Words> {
        if let Some((known, numbers)) = &self.state().counting
            && *known >= count
        {
            return Ok(numbers.clone());
        }
        let count = count.next_power_of_two();
        let mut host: Vec<i64> = (0..count as i64).collect();
        let numbers = self.empty(&[count as i64], self.torch.dtypes.i64)?;
        let data = host.as_mut_ptr().cast();
        // SAFETY: only read, and the copy is done before `host` goes.
        numbers.set(&unsafe { Value::on_host(self.torch, data, count, self.torch.dtypes.i64) }?)?;
        let numbers = Arc::new(numbers);
        self.state().counting = Some((count, numbers.clone()));
        Ok(numbers)
    }

    fn scalar(&self, value: f64) -> std::result::Result<Value, Words> {
        Value::f32(self.torch, value as f32)
    }

    /// The first element of a f32 tensor. Waits for the device.
    fn first(&self, x: &Value) -> std::result::Result<f32, Words> {
        let mut found = 0.0_f32;
        let data = (&raw mut found).cast();
        // SAFETY: the copy waits, and is done before `found` goes.
        unsafe { Value::on_host(self.torch, data, 1, self.torch.dtypes.f32) }?.set(&x.strided(
            &[1],
            &[1],
            0,
        )?)?;
        Ok(found)
    }

    /// `out += x`.
    fn accumulate(&self, out: &Value, x: &Value) -> std::result::Result<(), Words> {
        let one = self.scalar(1.0)?;
        self.aten().foreach_addcmul_(&[out], &[x], &[&one], &one.shaped(&[1], 0)?)
    }

    fn copy_out(&self, slot: Slot, first_bytes: usize, to: &mut [u8]) -> std::result::Result<(), Words> {
        let count = to.len() / 4;
        if count == 0 {
            return Ok(());
        }
        let device = self.with_slot(slot, |slot| slot.shaped(&[count as i64], first_bytes / 4))?;
        // SAFETY: the copy waits, and is done before `to` can go.
        let host =
            unsafe { Value::on_host(self.torch, to.as_mut_ptr().cast(), count, self.torch.dtypes.f32) }?;
        host.set(&device)
    }
}

/// Sizes as torch takes them.
fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&size| size as i64).collect()
}

impl Backend for Torch {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Elements of four bytes; what they mean is up to the op.
    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.prepare_thread();
        let value = self.empty(&[bytes.div_ceil(4) as i64], self.torch.dtypes.f32).map_err(|words| {
            let failed = self.failed("a new tensor", &words);
            let is_full = matches!(failed, Error::OutOfMemory { .. }) || words.contains("memory");
            if matches!(failed, Error::Lost { .. }) || !is_full {
                return failed;
            }
            let has_bytes = self.info.memory_bytes.saturating_sub(self.state().memory.now_bytes);
            Error::OutOfMemory { device: self.info.name.clone(), needs_bytes: bytes as u64, has_bytes }
        })?;
        let memory = &mut self.state().memory;
        memory.now_bytes += bytes as u64;
        memory.peak_bytes = memory.peak_bytes.max(memory.now_bytes);
        Ok(Slot(value.into_number()))
    }

    fn release(&self, slot: Slot, bytes: usize) {
        self.prepare_thread();
        let mut state = self.state();
        state.memory.now_bytes -= bytes as u64;
        state.known.forget(slot);
        drop(state);
        drop(Value::from_number(self.torch, slot.0));
    }

    fn write(&self, slot: Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.prepare_thread();
        let count = from_host.len() / 4;
        if count == 0 {
            return Ok(());
        }
        self.state().known.forget(slot);
        let data = from_host.as_ptr().cast_mut().cast();
        // SAFETY: only read, and the copy waits, so it is done before `from_host` can go.
        let host = unsafe { Value::on_host(self.torch, data, count, self.torch.dtypes.f32) };
        let device = self.with_slot(slot, |slot| slot.shaped(&[count as i64], offset_bytes / 4));
        let copied = host.and_then(|host| device?.set(&host));
        copied.map_err(|words| self.failed("a copy to the device", &words))
    }

    fn read(&self, slot: Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.prepare_thread();
        let copied = self.copy_out(slot, offset_bytes, to_host);
        copied.map_err(|words| self.failed("a copy from the device", &words))
    }

    fn run(&self, op: Op<'_>) -> Result<()> {
        self.prepare_thread();
        let name = op.name();
        run::run(self, op).map_err(|words| self.failed(&format!("`{name}`"), &words))
    }

    /// A copy of one element to the host waits for all that came before it; torch's C functions have no other fence.
    fn finish(&self) -> Result<()> {
        if self.on_cpu() {
            return Ok(());
        }
        self.prepare_thread();
        let slot = self.allocate(4)?;
        let read = self.read(slot, 0, &mut [0; 4]);
        self.release(slot, 4);
        read
    }

    /// The peak restarts from what is in use now.
    fn memory_in_use(&self) -> MemoryUse {
        let memory = &mut self.state().memory;
        let use_ = *memory;
        memory.peak_bytes = use_.now_bytes;
        use_
    }
}

#[cfg(test)]
mod tests {
    use super::bytes_refused;

    #[test]
    fn the_bytes_that_were_refused_are_read_from_torchs_words() {
        let cpu = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to \
                   allocate 4096 bytes. Error code 12 (Cannot allocate memory)";
        let cuda = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB";
        assert_eq!(bytes_refused(cpu), Some(4096));
        assert_eq!(bytes_refused(cuda), Some(5 << 29));
        assert_eq!(bytes_refused("mat1 and mat2 shapes cannot be multiplied"), None);
    }
}
