//! What a thread has asked of torch's devices: operators, and waits.

use std::cell::Cell;

/// What a thread has asked of torch's devices, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operators, copies, and kernels of this program's own that were enqueued. Views are not counted.
    pub launches: u64,
    /// Copies to or from the host that it waited for.
    pub waits: u64,
}

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { launches: 0, waits: 0 }) };
}

/// Returns what this thread has asked of torch's devices so far.
pub fn counts() -> Counts {
    COUNTS.get()
}

/// Takes note of something enqueued.
pub(super) fn launch() {
    let counts = COUNTS.get();
    COUNTS.set(Counts { launches: counts.launches + 1, ..counts });
}

/// Takes note of a wait for the device.
pub(super) fn wait() {
    let counts = COUNTS.get();
    COUNTS.set(Counts { waits: counts.waits + 1, ..counts });
}
