//! A library of the same kernels, compiled for the host: see `crates/device/kernels/stand_in.hpp`.

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{c_int, c_longlong, c_void};
use std::path::Path;

type Kernel = unsafe extern "C" fn(*const c_void);
type Launch = unsafe extern "C" fn(Kernel, c_longlong, c_int, *const c_void);

/// The library, opened.
pub(super) struct StandIn {
    launch: Launch,
    library: Library,
}

impl StandIn {
    pub(super) fn open(path: &Path) -> Result<StandIn, String> {
        // SAFETY: a library that a test has built of our source.
        unsafe {
            let library = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)
                .map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
            let launch = *library
                .get(b"stand_in_launch")
                .map_err(|_| format!("{} has no `stand_in_launch`", path.display()))?;
            Ok(StandIn { launch, library })
        }
    }

    /// A kernel's address, and the bytes of its arguments.
    pub(super) fn function(&self, name: &str) -> Result<(u64, usize), String> {
        let lacking = |_| format!("the library for the host has no kernel `{name}`");
        // SAFETY: the macro `KERNEL` of `stand_in.hpp` exports both, of these types.
        unsafe {
            let kernel: libloading::os::unix::Symbol<Kernel> =
                self.library.get(name.as_bytes()).map_err(lacking)?;
            let bytes: libloading::os::unix::Symbol<*const c_longlong> =
                self.library.get(format!("{name}_bytes").as_bytes()).map_err(lacking)?;
            Ok((*kernel as usize as u64, **bytes as usize))
        }
    }

    /// Runs a kernel of `function` to its end.
    ///
    /// # Safety
    /// As [`Kernels::launch`](super::Kernels::launch).
    pub(super) unsafe fn launch(&self, kernel: u64, blocks: usize, threads: usize, arguments: &[u64]) {
        // SAFETY: an address that `function` gave, as long as the library is open.
        unsafe {
            let kernel = std::mem::transmute::<usize, Kernel>(kernel as usize);
            (self.launch)(kernel, blocks as c_longlong, threads as c_int, arguments.as_ptr().cast());
        }
    }
}
