//! Finds the user's libtorch, and the few C functions of it that everything else is made of.
//!
//! A process holds one libtorch: once opened, it stays open, because its threads do.
#![allow(unsafe_code)]

use super::determinism::Determinism;
use super::memory::Memory;
use super::refusal::Refusal;
use super::staging::Staging;
use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A tensor of torch's, as its C functions name it.
pub(super) type Handle = *mut c_void;
type Code = i32;
type New = unsafe extern "C" fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> Code;
type Blob =
    unsafe extern "C" fn(*mut c_void, i64, *const i64, *const i64, i64, i32, i32, i32, *mut Handle) -> Code;
type View = unsafe extern "C" fn(Handle, i64, *const i64, *const i64, i64, *mut Handle) -> Code;

/// The functions, each found by name when torch is opened. Their signatures are those of torch's C headers.
pub(super) struct Symbols {
    pub(super) call: unsafe extern "C" fn(*const c_char, *const c_char, *mut u64, u64) -> Code,
    pub(super) empty: New,
    pub(super) blob: Blob,
    pub(super) view: View,
    pub(super) copy: unsafe extern "C" fn(Handle, Handle, i32) -> Code,
    pub(super) subtract: unsafe extern "C" fn(Handle, Handle, f64, *mut Handle) -> Code,
    pub(super) fill: unsafe extern "C" fn(Handle, f64) -> Code,
    pub(super) addmm: unsafe extern "C" fn(Handle, Handle, Handle, Handle, f32, f32) -> Code,
    pub(super) scalar_f32: unsafe extern "C" fn(f32, *mut Handle) -> Code,
    pub(super) scalar_f64: unsafe extern "C" fn(f64, *mut Handle) -> Code,
    pub(super) scalar_i64: unsafe extern "C" fn(i64, *mut Handle) -> Code,
    pub(super) again: unsafe extern "C" fn(Handle, *mut Handle) -> Code,
    pub(super) delete: unsafe extern "C" fn(Handle) -> Code,
    pub(super) undefined: unsafe extern "C" fn(*mut Handle) -> Code,
    pub(super) rank: unsafe extern "C" fn(Handle, *mut i64) -> Code,
    pub(super) sizes: unsafe extern "C" fn(Handle, *mut *const i64) -> Code,
    pub(super) memory: Memory,
    pub(super) staging: Staging,
    pub(super) determinism: Option<Determinism>,
    new_box: NewBox,
    pub(super) new_list: unsafe extern "C" fn(usize, *mut Handle) -> Code,
    pub(super) push: unsafe extern "C" fn(Handle, u64) -> Code,
    pub(super) parse_device: unsafe extern "C" fn(*const c_char, *mut u32, *mut i32) -> Code,
    count_threads: unsafe extern "C" fn(*mut u32) -> Code,
    /// The words of this thread's last error: since 2.13, before which torch wrote them to standard error
    /// alone.
    what: Option<unsafe extern "C" fn() -> *const c_char>,
    set_gradient_mode: unsafe extern "C" fn(bool),
    /// Sets the number of threads that torch computes with, if it computes with OpenMP.
    set_threads: Option<unsafe extern "C" fn(i32)>,
    pub(super) dtypes: Dtypes,
    pub(super) cpu: i32,
    /// The version in torch's encoding: major, minor and more, from the highest byte down.
    pub(super) version: u64,
    pub(super) path: PathBuf,
}

/// How a box for an optional argument is made. torch frees it by C++'s `delete`.
#[derive(Clone, Copy)]
enum NewBox {
    /// Since 2.13.
    Torch(unsafe extern "C" fn(*mut *mut u64) -> Code),
    /// C++'s own `operator new(size_t)`, from the library that torch links.
    Cpp(unsafe extern "C" fn(usize) -> *mut c_void),
}

/// torch's numbers of the element types.
#[derive(Clone, Copy)]
pub(super) struct Dtypes {
    pub(super) f64: i32,
    pub(super) f32: i32,
    pub(super) bf16: i32,
    pub(super) i64: i32,
    pub(super) i32: i32,
}

impl Dtypes {
    /// Bytes of one element.
    pub(super) fn bytes(self, dtype: i32) -> i64 {
        match dtype {
            wide if wide == self.f64 || wide == self.i64 => 8,
            half if half == self.bf16 => 2,
            _ => 4,
        }
    }
}

impl Symbols {
    /// The process's torch, opened at the first call.
    pub(super) fn open(device: &str) -> Result<&'static Symbols> {
        static OPENED: Mutex<Option<&'static Symbols>> = Mutex::new(None);
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(symbols) = *opened {
            return Ok(symbols);
        }
        let path = find(device)?;
        let symbols: &'static Symbols = Box::leak(Box::new(Symbols::load(device, &path)?));
        *opened = Some(symbols);
        Ok(symbols)
    }

    fn load(device: &str, path: &Path) -> Result<Symbols> {
        let library = open_library(device, path)?;
        let version = version_of(&library);
        let failed = |error: libloading::Error| lacking(device, path, version, &whole(&error));
        if version.is_some_and(|version| version < OLDEST) {
            return Err(lacking(device, path, version, "that is too old"));
        }
        keep_quiet(&library);
        // SAFETY: each function has the type that torch's C headers give it, unchanged since 2.10.
        unsafe {
            macro_rules! symbol {
                ($name:literal) => {
                    *library.get($name).map_err(failed)?
                };
            }
            macro_rules! number {
                ($name:literal) => {{
                    let number: unsafe extern "C" fn() -> i32 = symbol!($name);
                    number()
                }};
            }
            let symbols = Symbols {
                call: symbol!(b"torch_call_dispatcher"),
                empty: symbol!(b"aoti_torch_empty_strided"),
                blob: symbol!(b"aoti_torch_create_tensor_from_blob"),
                view: symbol!(b"aoti_torch__reinterpret_tensor"),
                copy: symbol!(b"aoti_torch_copy_"),
                subtract: symbol!(b"aoti_torch_aten_subtract_Tensor"),
                fill: symbol!(b"aoti_torch_aten_fill__Scalar"),
                addmm: symbol!(b"aoti_torch_addmm_out"),
                scalar_f32: symbol!(b"aoti_torch_scalar_to_tensor_float32"),
                scalar_f64: symbol!(b"aoti_torch_scalar_to_tensor_float64"),
                scalar_i64: symbol!(b"aoti_torch_scalar_to_tensor_int64"),
                again: symbol!(b"aoti_torch_new_tensor_handle"),
                delete: symbol!(b"aoti_torch_delete_tensor_object"),
                undefined: symbol!(b"aoti_torch_new_uninitialized_tensor"),
                rank: symbol!(b"aoti_torch_get_dim"),
                sizes: symbol!(b"aoti_torch_get_sizes"),
                memory: Memory::of(&library).map_err(failed)?,
                staging: Staging::of(&library).map_err(failed)?,
                determinism: Determinism::of(&library),
                new_box: match library.get(b"torch_new_stable_ivalue") {
                    Ok(symbol) => NewBox::Torch(*symbol),
                    Err(_) => NewBox::Cpp(symbol!(b"_Znwm")),
                },
                new_list: symbol!(b"torch_new_list_reserve_size"),
                push: symbol!(b"torch_list_push_back"),
                parse_device: symbol!(b"torch_parse_device_string"),
                count_threads: symbol!(b"torch_get_num_threads"),
                what: library.get(b"torch_exception_get_what_without_backtrace").ok().map(|symbol| *symbol),
                set_gradient_mode: symbol!(b"aoti_torch_grad_mode_set_enabled"),
                set_threads: library.get(b"omp_set_num_threads").ok().map(|symbol| *symbol),
                dtypes: Dtypes {
                    f64: number!(b"aoti_torch_dtype_float64"),
                    f32: number!(b"aoti_torch_dtype_float32"),
                    bf16: number!(b"aoti_torch_dtype_bfloat16"),
                    i64: number!(b"aoti_torch_dtype_int64"),
                    i32: number!(b"aoti_torch_dtype_int32"),
                },
                cpu: number!(b"aoti_torch_device_type_cpu"),
                version: version.unwrap_or(OLDEST),
                path: path.into(),
            };
            std::mem::forget(library);
            Ok(symbols)
        }
    }

    /// The version as `2.15`.
    pub(super) fn version(&self) -> String {
        shown(self.version)
    }

    /// A box for a slot, which the call that it is passed to gives back.
    pub(super) fn boxed(&self, slot: u64) -> std::result::Result<*mut u64, Refusal> {
        let mut place = std::ptr::null_mut();
        // SAFETY: either function hands out room for one slot, or fails; null is neither's answer but is
        // refused here.
        unsafe {
            match self.new_box {
                NewBox::Torch(new) => self.check(new(&raw mut place))?,
                NewBox::Cpp(new) => place = new(size_of::<u64>()).cast(),
            }
            if place.is_null() {
                return Err("no memory for an argument".into());
            }
            *place = slot;
        }
        Ok(place)
    }

    /// Sets torch's thread-local settings: no gradients are recorded, and `threads` threads compute (0:
    /// torch's choice).
    pub(super) fn prepare_thread(&self, threads: usize) {
        // SAFETY: both only set variables of the calling thread.
        unsafe {
            (self.set_gradient_mode)(false);
            if let (Some(set_threads), 1..) = (self.set_threads, threads) {
                set_threads(threads as i32);
            }
        }
    }

    /// Threads that compute on the CPU.
    pub(super) fn threads(&self) -> usize {
        let mut threads = 0;
        // SAFETY: writes one number.
        let code = unsafe { (self.count_threads)(&raw mut threads) };
        if code == 0 { threads as usize } else { 0 }
    }

    /// torch's number of a device's type, and the device's index, by torch's name for it.
    pub(super) fn parse_device(&self, device: &str, name: &str) -> Result<(i32, i32)> {
        let (mut kind, mut index) = (0, 0);
        let text = CString::new(name).unwrap_or_default();
        // SAFETY: reads a text that ends in zero, and writes two numbers.
        let code = unsafe { (self.parse_device)(text.as_ptr(), &raw mut kind, &raw mut index) };
        self.check(code).map_err(|_| {
            let paths = std::env::var_os("LINGOT_TORCH_EXTENSION").filter(|paths| !paths.is_empty());
            let opened = match paths {
                Some(paths) => format!("with {} opened", paths.display()),
                None => "and LINGOT_TORCH_EXTENSION names no library of a maker's".into(),
            };
            let what = format!("torch {} knows no device `{name}`, {opened}", self.version());
            unsupported(device, what, "set LINGOT_TORCH_EXTENSION to the library of the chip's maker")
        })?;
        Ok((kind as i32, index))
    }

    /// Whether torch hands out texts of errors.
    pub(super) fn has_words(&self) -> bool {
        self.what.is_some()
    }

    /// Errors in torch's words if `code` says that a call failed.
    pub(super) fn check(&self, code: Code) -> std::result::Result<(), Refusal> {
        if code == 0 {
            return Ok(());
        }
        let Some(what) = self.what else {
            let words = format!(
                "refused; torch {} says why on standard error, with TORCH_CPP_LOG_LEVEL=ERROR",
                self.version()
            );
            return Err(words.into());
        };
        // SAFETY: the text lives until this thread's next error.
        let text = unsafe { CStr::from_ptr(what()) }.to_string_lossy();
        let line = text.lines().next().unwrap_or_default();
        // What follows is advice for those who build torch, and a list of all it was built for.
        Err(Refusal::of_torch(line.split(" This could be because").next().unwrap_or_default()))
    }
}

/// Keeps torch's log of refused calls, with the frames of its stack, off standard error: routes that are
/// tried are meant to be refused, and errors carry torch's words where it hands them out. Whoever sets
/// `TORCH_CPP_LOG_LEVEL` has it as they say.
fn keep_quiet(library: &Library) {
    const FATAL: i32 = 3;
    if std::env::var_os("TORCH_CPP_LOG_LEVEL").is_some() {
        return;
    }
    // SAFETY: torch's own logging level, an integer; no other thread calls torch yet.
    unsafe {
        if let Ok(level) = library.get::<*mut i32>(b"FLAGS_caffe2_log_level") {
            **level = FATAL;
        }
    }
}

/// Tells glibc to keep the memory that torch gives back: large temporaries would be asked of the system, and
/// cleared by it, at every operator. Where the allocator is another, nothing happens.
pub(super) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        /// Freed memory above this is given back to the system.
        const TRIM_THRESHOLD: i32 = -1;
        /// What is larger is asked of the system.
        const MMAP_THRESHOLD: i32 = -3;
        // SAFETY: both only set numbers of the allocator's.
        unsafe {
            mallopt(MMAP_THRESHOLD, 1 << 30);
            mallopt(TRIM_THRESHOLD, i32::MAX);
        }
    }
}

/// 2.10: the first with lists and device names among its C functions, as `Symbols::version` has it.
const OLDEST: u64 = 2 << 56 | 10 << 48;

/// The version of a library, if it tells: torch does since 2.5.
fn version_of(library: &Library) -> Option<u64> {
    // SAFETY: the function's type is that of torch's C header.
    unsafe {
        let version = library.get::<unsafe extern "C" fn() -> u64>(b"aoti_torch_abi_version").ok()?;
        Some(version())
    }
}

fn shown(version: u64) -> String {
    format!("{}.{}", version >> 56, version >> 48 & 255)
}

/// The error of a torch that cannot be used, with its version if it tells.
fn lacking(device: &str, path: &Path, version: Option<u64>, why: &str) -> Error {
    let torch = version.map_or("a torch of unknown version".into(), |v| format!("torch {}", shown(v)));
    let hint = "torch 2.10 or newer is needed; `LINGOT_TORCH` names the folder of another";
    unsupported(device, format!("{torch} at {}: {why}", path.display()), hint)
}

/// Opens a shared library for good, its functions visible to those opened after it.
pub(super) fn open_library(device: &str, path: &Path) -> Result<Library> {
    // SAFETY: the user names the library; what its initialisers do is its maker's.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map_err(|error| {
        let hint = "the library must be whole, with the libraries that it links";
        unsupported(device, format!("{} cannot be opened: {}", path.display(), whole(&error)), hint)
    })
}

/// The system's words, if it had any.
fn whole(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

pub(super) fn unsupported(device: &str, what: String, hint: &str) -> Error {
    Error::Unsupported { device: device.into(), what, hint: hint.into() }
}

fn find(device: &str) -> Result<PathBuf> {
    let places = places();
    if let Some(path) = places.iter().find(|path| path.exists()) {
        return Ok(path.clone());
    }
    let tried: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    let tried = if tried.is_empty() {
        "none of LINGOT_TORCH, VIRTUAL_ENV and CONDA_PREFIX names a place with torch".into()
    } else {
        format!("looked at {}", tried.join(", "))
    };
    Err(unsupported(
        device,
        format!("no libtorch was found; {tried}"),
        "set LINGOT_TORCH to the folder of an installed torch, or activate its Python environment",
    ))
}

/// What a chip that torch itself knows needs: its library beside torch's own, and the file of its driver.
const CHIPS: [(&str, &str, &str); 3] = [
    ("torch:cuda:0", "libtorch_cuda.so", "/dev/nvidiactl"),
    ("torch:cuda:0", "libtorch_hip.so", "/dev/kfd"),
    ("torch:xpu:0", "libtorch_xpu.so", "/dev/dri"),
];

/// Names of torch's devices that this machine has by the look of its files. Opens nothing.
pub(crate) fn apparent() -> Vec<&'static str> {
    let Some(torch) = places().into_iter().find(|path| path.exists()) else { return vec![] };
    let is_there =
        |library: &str, driver: &str| torch.with_file_name(library).exists() && Path::new(driver).exists();
    let chips = CHIPS.into_iter().filter(|(_, library, driver)| is_there(library, driver));
    std::iter::once("torch:cpu").chain(chips.map(|(name, _, _)| name)).collect()
}

/// Where libtorch may be: `LINGOT_TORCH` alone if set, else the active Python environment.
fn places() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("LINGOT_TORCH").map(PathBuf::from) {
        return FILES.iter().flat_map(|file| [folder.join("lib").join(file), folder.join(file)]).collect();
    }
    let roots = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let pythons = roots.flat_map(|root| std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten());
    let pythons = pythons.filter(|entry| entry.file_name().to_string_lossy().starts_with("python"));
    pythons
        .flat_map(|entry| FILES.map(|file| entry.path().join("site-packages/torch/lib").join(file)))
        .collect()
}

/// The library, by the system's naming.
const FILES: [&str; 2] = ["libtorch_cpu.so", "libtorch_cpu.dylib"];
