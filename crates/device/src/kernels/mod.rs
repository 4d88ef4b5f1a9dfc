//! Kernels of our own, for what no operator of a library does in one pass over memory.
//!
//! One source in `crates/device/kernels` is compiled at run time by the compiler library of the chip's maker
//! (`compiler`) and started through the maker's driver (`gpu`); both are opened by `dlopen`, so nothing
//! of theirs is needed to build this program. For tests, a C++ compiler makes a library of the same source
//! that stands in for the driver (`stand_in`). This module knows addresses and streams, and no tensors.
#![allow(unsafe_code)]

mod cache;
mod compiler;
mod gpu;
mod source;
mod stand_in;

pub(crate) use gpu::{Gpu, Maker};
pub use source::source;

use compiler::{Compiler, cuda_options};
use source::Unit;
use stand_in::StandIn;
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads of a block, the same for all kernels: `THREADS` of the prelude.
pub(crate) const THREADS: usize = 256;

/// The most arguments of a kernel.
const MOST_ARGUMENTS: usize = 32;

/// An argument of a kernel, 8 bytes long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument(u64);

impl Argument {
    /// The address 0, for an operand that is not given.
    pub(crate) const NULL: Argument = Argument(0);

    /// An address in the device's memory.
    pub(crate) fn address(address: u64) -> Argument {
        Argument(address)
    }

    /// Whether an address is a multiple of `bytes`.
    pub(crate) fn is_multiple_of(self, bytes: u64) -> bool {
        self.0.is_multiple_of(bytes)
    }

    /// The address `bytes` further on.
    pub(crate) fn after(self, bytes: usize) -> Argument {
        Argument(self.0 + bytes as u64)
    }
}

impl From<usize> for Argument {
    fn from(number: usize) -> Argument {
        Argument(number as u64)
    }
}

impl From<bool> for Argument {
    fn from(yes: bool) -> Argument {
        Argument(u64::from(yes))
    }
}

impl From<f64> for Argument {
    fn from(number: f64) -> Argument {
        Argument(number.to_bits())
    }
}

/// What starts kernels.
enum Driver {
    Gpu(Gpu),
    StandIn(StandIn),
}

/// A kernel that a driver can start: the driver's handle, or an address.
#[derive(Clone, Copy)]
struct Function {
    handle: u64,
    /// Bytes of its arguments, where the driver tells.
    argument_bytes: Option<usize>,
}

/// The kernels of one device, compiled and loaded.
pub(crate) struct Kernels {
    driver: Driver,
    functions: HashMap<&'static str, Function>,
    launches: AtomicU64,
}

impl Kernels {
    /// Compiles the kernels for a GPU, or takes what an earlier process compiled, and loads them.
    ///
    /// `beside_torch` is the folder of libtorch; in a Python environment the compiler library lies near it.
    ///
    /// # Errors
    /// If there is no compiler library, it refuses the source, or the driver refuses what it made.
    pub(crate) fn compile(gpu: Gpu, beside_torch: &Path) -> Result<Kernels, String> {
        let compiler = Compiler::open(gpu.maker(), beside_torch)?;
        let units = source::units();
        let codes: Vec<Result<Vec<u8>, String>> = std::thread::scope(|scope| {
            let (gpu, compiler) = (&gpu, &compiler);
            let start = |unit| scope.spawn(move || compiled(gpu, compiler, unit));
            let started: Vec<_> = units.iter().map(start).collect();
            let lost = |_| Err("a compilation broke off".into());
            started.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
        });
        let mut functions = HashMap::new();
        for (unit, code) in units.iter().zip(codes) {
            let module = gpu.load(&code?)?;
            for &name in &unit.names {
                functions
                    .insert(name, Function { handle: gpu.function(module, name)?, argument_bytes: None });
            }
        }
        Ok(Kernels { driver: Driver::Gpu(gpu), functions, launches: AtomicU64::new(0) })
    }

    /// Opens a library that runs the same kernels on the host.
    ///
    /// # Errors
    /// If it cannot be opened or lacks a kernel.
    pub(crate) fn on_host(library: &Path) -> Result<Kernels, String> {
        let stand_in = StandIn::open(library)?;
        let mut functions = HashMap::new();
        for name in source::units().into_iter().flat_map(|unit| unit.names) {
            let (handle, bytes) = stand_in.function(name)?;
            functions.insert(name, Function { handle, argument_bytes: Some(bytes) });
        }
        Ok(Kernels { driver: Driver::StandIn(stand_in), functions, launches: AtomicU64::new(0) })
    }

    /// Enqueues a kernel on `stream`, with up to `blocks` blocks of [`THREADS`] threads; none does nothing.
    ///
    /// # Safety
    /// The arguments are those that the kernel declares, and its memory stays until the stream has come by.
    pub(crate) unsafe fn launch(
        &self,
        name: &str,
        blocks: usize,
        stream: *mut c_void,
        arguments: &[Argument],
    ) -> Result<(), String> {
        let Some(function) = self.functions.get(name) else { return Err(format!("no kernel `{name}`")) };
        let (given, taken) = (size_of_val(arguments), function.argument_bytes);
        if arguments.len() > MOST_ARGUMENTS || taken.is_some_and(|taken| taken != given) {
            return Err(format!("kernel `{name}` takes {taken:?} bytes of arguments, {given} are given"));
        }
        if blocks == 0 {
            return Ok(());
        }
        let mut values = [0_u64; MOST_ARGUMENTS];
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = argument.0;
        }
        self.launches.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller says; the values live until the call returns, by when they are copied.
        unsafe {
            match &self.driver {
                Driver::Gpu(gpu) => gpu
                    .launch(function.handle, blocks, THREADS, stream, &mut values)
                    .map_err(|why| format!("kernel `{name}`: {why}")),
                Driver::StandIn(stand_in) => {
                    stand_in.launch(function.handle, blocks, THREADS, &values);
                    Ok(())
                }
            }
        }
    }

    /// Kernels started since the device was opened.
    pub(crate) fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }
}

/// The machine code of a unit for a GPU, from the cache where it is there.
fn compiled(gpu: &Gpu, compiler: &Compiler, unit: &Unit) -> Result<Vec<u8>, String> {
    let architecture = gpu.architecture();
    let options = match gpu.maker() {
        Maker::Nvidia => cuda_options(architecture),
        // hipRTC compiles for the thread's device unless told otherwise.
        Maker::Amd => vec!["-O3".into(), "-std=c++17".into()],
    };
    let card = &gpu.card().name;
    let key = format!("{} {card} {architecture} {options:?}\n{}", compiler.version(), unit.text);
    if let Some(code) = cache::read(&key) {
        return Ok(code);
    }
    gpu.turn()?;
    let code = compiler.compile(&unit.text, &options)?;
    cache::write(&key, &code);
    Ok(code)
}
