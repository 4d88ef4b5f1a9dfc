//! Finds the user's libtorch and the few C functions of it that everything else is made of.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;

/// A tensor of torch's, owned by whoever holds the number.
pub(super) type Handle = *mut c_void;
type New = unsafe extern "C" fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> i32;
type Blob =
    unsafe extern "C" fn(*mut c_void, i64, *const i64, *const i64, i64, i32, i32, i32, *mut Handle) -> i32;

/// The functions, each found by name when torch is opened.
pub(super) struct Symbols {
    pub(super) call: unsafe extern "C" fn(*const c_char, *const c_char, *mut u64, u64) -> i32,
    pub(super) empty: New,
    pub(super) blob: Blob,
    pub(super) view: unsafe extern "C" fn(Handle, i64, *const i64, *const i64, i64, *mut Handle) -> i32,
    pub(super) copy: unsafe extern "C" fn(Handle, Handle, i32) -> i32,
    pub(super) subtract: unsafe extern "C" fn(Handle, Handle, f64, *mut Handle) -> i32,
    pub(super) fill: unsafe extern "C" fn(Handle, f64) -> i32,
    pub(super) again: unsafe extern "C" fn(Handle, *mut Handle) -> i32,
    pub(super) delete: unsafe extern "C" fn(Handle) -> i32,
    pub(super) what: unsafe extern "C" fn() -> *const c_char,
    pub(super) version: u64,
    /// Kept open: the functions live in it.
    _library: Library,
}

impl Symbols {
    pub(super) fn open(device: &str) -> Result<Symbols> {
        let places = places();
        let Some(path) = places.iter().find(|path| path.exists()) else {
            let tried: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
            let tried = if tried.is_empty() { "no place".into() } else { tried.join(", ") };
            return Err(unsupported(
                device,
                format!("no libtorch was found; looked at {tried}"),
                "set LINGOT_TORCH to the folder of an installed torch, or activate its environment",
            ));
        };
        let failed = |error: libloading::Error| {
            let hint = "torch 2.13 or newer is needed, whole, with the libraries it links";
            unsupported(device, format!("{}: {error}", path.display()), hint)
        };
        // SAFETY: torch's initialisers are its own; the signatures are those of its C headers, stable since 2.10.
        unsafe {
            let library = Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL).map_err(failed)?;
            macro_rules! symbol {
                ($name:literal) => {
                    *library.get($name).map_err(failed)?
                };
            }
            let version: unsafe extern "C" fn() -> u64 = symbol!(b"aoti_torch_abi_version");
            let grad: unsafe extern "C" fn(bool) = symbol!(b"aoti_torch_grad_mode_set_enabled");
            grad(false);
            Ok(Symbols {
                call: symbol!(b"torch_call_dispatcher"),
                empty: symbol!(b"aoti_torch_empty_strided"),
                blob: symbol!(b"aoti_torch_create_tensor_from_blob"),
                view: symbol!(b"aoti_torch__reinterpret_tensor"),
                copy: symbol!(b"aoti_torch_copy_"),
                subtract: symbol!(b"aoti_torch_aten_subtract_Tensor"),
                fill: symbol!(b"aoti_torch_aten_fill__Scalar"),
                again: symbol!(b"aoti_torch_new_tensor_handle"),
                delete: symbol!(b"aoti_torch_delete_tensor_object"),
                what: symbol!(b"torch_exception_get_what_without_backtrace"),
                version: version(),
                _library: library,
            })
        }
    }

    /// Turns a return code into an error with torch's own words.
    pub(super) fn check(&self, device: &str, what: &str, code: i32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the text lives until this thread's next error.
        let text = unsafe { CStr::from_ptr((self.what)()) }.to_string_lossy();
        let text = text.lines().next().unwrap_or_default();
        Err(unsupported(device, format!("{what}: {text}"), "the words are torch's"))
    }
}

pub(super) fn unsupported(device: &str, what: String, hint: &str) -> Error {
    Error::Unsupported { device: device.into(), what, hint: hint.into() }
}

/// Where libtorch may be: `LINGOT_TORCH` alone if set, else the active Python environment.
fn places() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os("LINGOT_TORCH").map(PathBuf::from) {
        return ["lib/libtorch_cpu.so", "libtorch_cpu.so"].iter().map(|file| folder.join(file)).collect();
    }
    let roots = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let pythons = roots.flat_map(|root| std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten());
    let versions = pythons.map(|entry| entry.path().join("site-packages/torch/lib/libtorch_cpu.so"));
    versions.filter(|path| path.to_string_lossy().contains("/python")).collect()
}
