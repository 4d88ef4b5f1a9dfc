//! Work that is given up when it takes too long, such as splitting text by a regular expression that
//! explodes.
//!
//! Time is counted in waits that this thread has slept through, so a program that was stopped for a night has
//! not worked for a night.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const WAIT: Duration = Duration::from_millis(100);
/// Time for any work, in seconds.
const LEAST_S: f64 = 10.0;
/// The slowest encoding that is waited for, in bytes per second; a usual tokenizer takes 10 to 100 times as
/// many.
const SLOWEST_BYTES_PER_S: f64 = 100_000.0;

/// How long the encoding of a corpus has taken, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    least_s: f64,
    slowest_bytes_per_s: f64,
    taken_s: f64,
    allowed_bytes: f64,
}

/// Why work was not done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exhausted {
    /// It took longer than it may.
    TooSlow { taken_s: f64, bytes: f64 },
    /// The system gives no more threads.
    NoThread,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience {
            least_s: LEAST_S,
            slowest_bytes_per_s: SLOWEST_BYTES_PER_S,
            taken_s: 0.0,
            allowed_bytes: 0.0,
        }
    }

    /// Does `work` on `bytes` bytes in a thread of its own, and returns its result. Work that is given up
    /// goes on in its thread until the program ends, so the caller has to end it.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Exhausted> {
        self.allowed_bytes += bytes as f64;
        let (done, result) = channel();
        let work = move || {
            // Nobody receives the result of work that was given up.
            let _ = done.send(work());
        };
        let Ok(worker) = std::thread::Builder::new().spawn(work) else {
            return Err(Exhausted::NoThread);
        };
        loop {
            match result.recv_timeout(WAIT) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Timeout) => self.taken_s += WAIT.as_secs_f64(),
                Err(RecvTimeoutError::Disconnected) => match worker.join() {
                    Ok(()) => return Err(self.too_slow()),
                    Err(panic) => std::panic::resume_unwind(panic),
                },
            }
            if self.taken_s > self.least_s + self.allowed_bytes / self.slowest_bytes_per_s {
                return Err(self.too_slow());
            }
        }
    }

    fn too_slow(&self) -> Exhausted {
        Exhausted::TooSlow { taken_s: self.taken_s, bytes: self.allowed_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn work_without_an_end_is_given_up_and_other_work_is_not() {
        let mut patience = Patience { least_s: 0.3, ..Patience::new() };
        assert_eq!(patience.run(10, || 7).unwrap(), 7);
        let begin = Instant::now();
        let exhausted = patience.run(10, || std::thread::sleep(Duration::from_secs(3600))).unwrap_err();
        let Exhausted::TooSlow { taken_s, bytes } = exhausted else { panic!("{exhausted:?}") };
        assert!(taken_s >= 0.3 && bytes == 20.0, "{exhausted:?}");
        assert!(begin.elapsed() < Duration::from_secs(30));
        // More text may take more time.
        let mut patience = Patience { least_s: 0.0, ..Patience::new() };
        patience.run(1_000_000, || std::thread::sleep(Duration::from_millis(400))).unwrap();
    }
}
