//! The time for which the calling thread has had a core, without the time it waited for one.
#![allow(unsafe_code)]

use std::time::Duration;

/// The thread's time on a core so far, if the system tells.
pub(super) fn now() -> Option<Duration> {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        /// `struct timespec` of 64-bit Linux.
        #[repr(C)]
        struct Time {
            seconds: i64,
            nanoseconds: i64,
        }
        unsafe extern "C" {
            fn clock_gettime(clock: std::ffi::c_int, time: *mut Time) -> std::ffi::c_int;
        }
        /// CLOCK_THREAD_CPUTIME_ID of clock_gettime(2).
        const THREAD: std::ffi::c_int = 3;
        let mut time = Time { seconds: 0, nanoseconds: 0 };
        // SAFETY: the call writes to `time` alone, which has the system's layout.
        let succeeded = unsafe { clock_gettime(THREAD, &raw mut time) } == 0;
        succeeded.then(|| Duration::new(time.seconds as u64, time.nanoseconds as u32))
    }
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    None
}
