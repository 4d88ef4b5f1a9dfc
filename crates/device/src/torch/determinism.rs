//! torch's switch between gradients of attention that add up in any order and those that do not.
//!
//! The operators of accelerators add to the gradient by queries from many blocks at once, in whatever order
//! these come, unless torch's context asks for determinism; that cannot be said in a call. There is no C
//! function for it, so the C++ ones are looked for by name: they take the context and booleans.
#![allow(unsafe_code)]

use super::Torch;
use super::aten::Aten;
use super::refusal::Refusal;
use libloading::os::unix::Library;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The functions, where this torch has them.
#[derive(Clone, Copy)]
pub(super) struct Determinism {
    context: unsafe extern "C" fn() -> *mut c_void,
    /// Whether algorithms are to be deterministic, and whether those that are not are only warned of.
    set: unsafe extern "C" fn(*mut c_void, bool, bool),
}

impl Determinism {
    /// The functions of an opened torch.
    ///
    /// # Safety
    /// The library is torch's, 2.10 or newer, and stays open.
    pub(super) unsafe fn of(library: &Library) -> Option<Determinism> {
        // SAFETY: `at::globalContext()`, `at::Context::setDeterministicAlgorithms(bool, bool)` and
        // `at::Context::setDeterministicFillUninitializedMemory(bool)`, in the types of 2.10 to 2.15. A
        // method of C++ takes its object as a first argument.
        unsafe {
            let context: unsafe extern "C" fn() -> *mut c_void =
                *library.get(b"_ZN2at13globalContextEv").ok()?;
            let fill: unsafe extern "C" fn(*mut c_void, bool) =
                *library.get(b"_ZN2at7Context39setDeterministicFillUninitializedMemoryEb").ok()?;
            let set = *library.get(b"_ZN2at7Context26setDeterministicAlgorithmsEbb").ok()?;
            // Else new tensors would be filled while the switch is on.
            fill(context(), false);
            Some(Determinism { context, set })
        }
    }

    fn switch(self, on: bool) {
        // SAFETY: the context lives as long as torch does.
        unsafe { (self.set)((self.context)(), on, false) };
    }
}

/// Calls an operator that adds up in a fixed order only when asked to. The switch is the whole process's, so
/// threads take turns.
pub(super) fn deterministic<R>(
    torch: &Torch,
    call: impl FnOnce(Aten) -> Result<R, Refusal>,
) -> Result<R, Refusal> {
    let Some(determinism) = torch.torch.determinism.filter(|_| !torch.on_cpu()) else {
        return call(torch.aten());
    };
    let _turn = Turn::take(determinism);
    call(torch.aten())
}

/// The time during which the switch is on.
struct Turn {
    determinism: Determinism,
    _lock: MutexGuard<'static, ()>,
}

impl Turn {
    fn take(determinism: Determinism) -> Turn {
        static TURN: Mutex<()> = Mutex::new(());
        let lock = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        determinism.switch(true);
        Turn { determinism, _lock: lock }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.determinism.switch(false);
    }
}
