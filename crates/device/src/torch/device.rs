//! A device of torch's: how it is found and opened, and its memory.

use super::adamw;
use super::aten::Aten;
use super::kernels::{self, OwnKernels, OwnState};
use super::known::Known;
use super::library::{self, Symbols, unsupported};
use super::makers;
use super::refusal::Refusal;
use super::rope::RopeTable;
use super::routes::Routes;
use super::value::{self, Value};
use crate::backend::{Backend, DeviceInfo, MemoryUse};
use crate::boundary::Boundary;
use crate::error::{Error, Result};
use crate::kernels::Gpu;
use crate::op::{Access, Op, Operand};
use crate::precision::Precision;
use crate::slot::{Owner, Slot};
use crate::tensor::Kind;
use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a torch device is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What the operands of products are rounded to.
    pub precision: Precision,
    /// Threads that torch computes with on the CPU; 0 for its own choice.
    pub threads: usize,
    /// Leave out what not every chip has: fused operators, kernels of ours, and f64.
    pub composed_only: bool,
    /// For tests: a library that runs kernels of ours on the host, for devices whose memory is the host's.
    pub stand_in: Option<&'static Path>,
}

/// A device of the user's torch.
pub struct Torch {
    info: DeviceInfo,
    owner: Owner,
    pub(super) torch: &'static Symbols,
    /// torch's number of the device's type, and the device's index.
    pub(super) place: (i32, i32),
    pub(super) options: Options,
    /// Whether the device has f64.
    pub(super) has_f64: bool,
    pub(super) routes: Routes,
    pub(super) own: OwnKernels,
    /// A number on the device: if it cannot be read, the device is lost.
    pulse: Value,
    state: Mutex<State>,
}

/// Tensors and knowledge that ops leave for the next ones.
#[derive(Default)]
pub(super) struct State {
    memory: MemoryUse,
    pub(super) known: Known,
    pub(super) rope: HashMap<(usize, u64), Arc<RopeTable>>,
    pub(super) own: OwnState,
    /// 0, 1, 2, ... as i64, and how many they are.
    pub(super) counting: Option<(usize, Arc<Value>)>,
    pub(super) scratch: Option<Arc<adamw::Scratch>>,
}

impl Torch {
    /// Opens a device by its name here, `torch:` and torch's own name for it: `torch:cpu`, `torch:cuda:0`,
    /// `torch:npu:0`.
    ///
    /// libtorch is looked for in `LINGOT_TORCH`, else in the active Python environment; a chip's own
    /// libraries in `LINGOT_TORCH_EXTENSION`, a list of paths.
    pub fn open(name: &str, options: Options) -> Result<Torch> {
        let known = name.strip_prefix("torch:").unwrap_or_default();
        if known.is_empty() {
            let hint = "name a torch device such as `torch:cpu`, `torch:cuda:0` or `torch:npu:0`";
            return Err(unsupported(name, "the name does not say which device of torch's".into(), hint));
        }
        let torch = Symbols::open(name)?;
        torch.prepare_thread(options.threads);
        makers::open(torch, name, known)?;
        let place = torch.parse_device(name, known)?;
        let place = if place.0 == torch.cpu { (place.0, -1) } else { (place.0, place.1.max(0)) };
        let on_cpu = place.0 == torch.cpu;
        if on_cpu {
            library::keep_freed_memory();
        }
        // The first tensor wakes the device, or tells why that fails.
        let pulse = wake(torch, place, torch.dtypes.f32).map_err(|refusal| {
            unsupported(name, format!("torch {}: {refusal}", torch.version()), "the words are torch's")
        })?;
        let gpu = kernels::gpu(torch, known, place.1);
        let info = info(torch, name, on_cpu, &options, gpu.as_ref().ok());
        let (routes, state, owner) = (Routes::default(), Mutex::default(), Owner::new());
        let own = OwnKernels::default();
        let mut opened =
            Torch { info, owner, torch, place, options, has_f64: false, routes, own, pulse, state };
        opened.has_f64 = !options.composed_only && wake(torch, place, torch.dtypes.f64).is_ok();
        if !options.composed_only {
            opened.routes = Routes::of(&opened);
            opened.own = OwnKernels::open(&opened, gpu);
        }
        Ok(opened)
    }

    /// The same device once more, with composed ops and the kernels `own` alone, to try them.
    pub(super) fn sibling(&self, own: OwnKernels) -> std::result::Result<Torch, Refusal> {
        Ok(Torch {
            info: self.info.clone(),
            owner: Owner::new(),
            torch: self.torch,
            place: self.place,
            options: self.options,
            has_f64: self.has_f64,
            routes: Routes::default(),
            own,
            pulse: self.pulse.again()?,
            state: Mutex::default(),
        })
    }

    /// The number of torch's tensors that this process holds. It does not grow from step to step.
    pub fn live_handles() -> i64 {
        value::live()
    }

    /// The path and the version of the user's torch, for `lingot devices`.
    pub fn found() -> Result<(PathBuf, String)> {
        let torch = Symbols::open("torch")?;
        Ok((torch.path.clone(), torch.version()))
    }

    /// How ops reach the device, one line each, for people.
    pub fn routes(&self) -> Vec<String> {
        let mut lines = self.routes.text(self);
        lines.extend(self.own.text());
        lines
    }

    /// Kernels of ours that were started since the device was opened, those of its trials included.
    pub fn kernel_launches(&self) -> u64 {
        self.own.launches()
    }

    /// torch's name of the device's type: `cuda`, `npu`.
    pub(super) fn device_type(&self) -> &str {
        self.info.name.split(':').nth(1).unwrap_or_default()
    }

    pub(super) fn on_cpu(&self) -> bool {
        self.place.0 == self.torch.cpu
    }

    /// Whether products take bf16 operands as they are: on a chip that was opened for it. On the CPU f32 is
    /// faster.
    pub(super) fn multiplies_bf16(&self) -> bool {
        self.options.precision == Precision::Bf16 && !self.on_cpu()
    }

    pub(super) fn aten(&self) -> Aten {
        Aten(self.torch)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what torch keeps per thread, once in each thread that calls.
    fn prepare_thread(&self) {
        thread_local!(static PREPARED: Cell<Option<usize>> = const { Cell::new(None) });
        if PREPARED.get() != Some(self.options.threads) {
            self.torch.prepare_thread(self.options.threads);
            PREPARED.set(Some(self.options.threads));
        }
    }

    /// Forgets what the host knows of whole numbers that an op is about to write.
    fn forget_outputs(&self, op: &Op<'_>) {
        let is_out =
            |operand: &Operand<'_>| operand.access != Access::Read && operand.tensor.kind() == Kind::I32;
        for operand in op.operands().filter(is_out) {
            self.state().known.forget(operand.tensor.slot().id());
        }
    }

    /// Turns a refusal of torch's into an error that names what was refused.
    pub(super) fn failed(&self, what: &str, refusal: &Refusal) -> Error {
        let device = &self.info.name;
        if self.first(&self.pulse).is_err() {
            let reason = format!("{what}: {refusal}; the device answers no more");
            return Error::Lost { device: device.clone(), reason };
        }
        if let Some(needs_bytes) = refusal.lacking_bytes() {
            let has_bytes = self.info.memory_bytes.saturating_sub(self.state().memory.now_bytes);
            return Error::OutOfMemory { device: device.clone(), needs_bytes, has_bytes };
        }
        let hint = "the last words are torch's; device.name = \"cpu\" needs no torch";
        unsupported(device, format!("{what}: {refusal}"), hint)
    }
}

/// A tensor of one number on the device.
fn wake(torch: &'static Symbols, place: (i32, i32), dtype: i32) -> std::result::Result<Value, Refusal> {
    let one = Value::empty(torch, &[1], dtype, place)?;
    one.fill(1.0).map(|()| one)
}

/// What the device says about itself: what torch knows, and the driver of a GPU.
fn info(torch: &Symbols, name: &str, on_cpu: bool, options: &Options, gpu: Option<&Gpu>) -> DeviceInfo {
    let emulated = if on_cpu && options.precision == Precision::Bf16 { ", bf16 emulated" } else { "" };
    let threads = if on_cpu { torch.threads() } else { 0 };
    let count = if on_cpu { format!(", {threads} threads") } else { String::new() };
    let card = gpu.map_or(String::new(), |gpu| format!("{}, ", gpu.card()));
    let memory_bytes = if on_cpu { crate::cpu::memory_bytes() } else { 0 };
    DeviceInfo {
        name: name.into(),
        description: format!("{card}torch {}{count}{emulated}", torch.version()),
        memory_bytes: gpu.map_or(memory_bytes, |gpu| gpu.card().memory_bytes),
        threads,
    }
}

impl Backend for Torch {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Memory as f32 elements; what they mean is up to the op.
    fn allocate(&self, bytes: usize) -> Result<Slot> {
        self.prepare_thread();
        let refused = |refusal: Refusal| match self.failed("a new tensor", &refusal) {
            Error::OutOfMemory { device, has_bytes, .. } => {
                Error::OutOfMemory { device, needs_bytes: bytes as u64, has_bytes }
            }
            failed => failed,
        };
        let value = self.empty(&[bytes.div_ceil(4) as i64], self.torch.dtypes.f32).map_err(refused)?;
        self.state().memory.add(bytes);
        Ok(self.owner.slot(value.into_number(), bytes))
    }

    fn release(&self, slot: Slot) {
        let Ok(handle) = self.owner.number(&slot) else { return };
        self.prepare_thread();
        let mut state = self.state();
        state.memory.subtract(slot.bytes());
        state.known.forget(slot.id());
        drop(state);
        drop(Value::from_number(self.torch, handle));
    }

    fn write(&self, slot: &Slot, offset_bytes: usize, from_host: &[u8]) -> Result<()> {
        self.owner.number_of_range(slot, offset_bytes, from_host.len())?;
        self.prepare_thread();
        self.state().known.forget(slot.id());
        self.copy_in(slot, offset_bytes, from_host)
            .map_err(|refusal| self.failed("a copy to the device", &refusal))?;
        self.state().known.write(slot.id(), offset_bytes, from_host);
        Ok(())
    }

    fn read(&self, slot: &Slot, offset_bytes: usize, to_host: &mut [u8]) -> Result<()> {
        self.owner.number_of_range(slot, offset_bytes, to_host.len())?;
        self.prepare_thread();
        self.copy_out(slot, offset_bytes, to_host)
            .map_err(|refusal| self.failed("a copy from the device", &refusal))
    }

    fn run(&self, op: &Op<'_>) -> Result<()> {
        self.owner.check(op)?;
        self.prepare_thread();
        self.forget_outputs(op);
        let outcome = match kernels::run(self, op) {
            Ok(false) => self.with_twins(op, || super::run(self, op)),
            done => done.map(|_| ()),
        };
        outcome.map_err(|refusal| {
            let error = self.failed(&format!("`{}`", op.name()), &refusal);
            if refusal.is_half_done() {
                Error::HalfDone { op: op.name(), error: Box::new(error) }
            } else {
                error
            }
        })
    }

    /// A copy of one element to the host waits for all that came before it; torch's C functions have no other
    /// fence.
    fn finish(&self) -> Result<()> {
        if self.on_cpu() {
            return Ok(());
        }
        self.prepare_thread();
        let slot = self.allocate(4)?;
        let read = self.read(&slot, 0, &mut [0; 4]);
        self.release(slot);
        read
    }

    fn memory_in_use(&self) -> MemoryUse {
        self.state().memory
    }

    fn restart_peak(&self) {
        self.state().memory.restart_peak();
    }

    fn routes(&self) -> Vec<String> {
        Torch::routes(self)
    }

    fn boundaries(&self) -> Vec<Boundary> {
        super::boundaries(self)
    }
}
