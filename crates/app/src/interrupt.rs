//! Ctrl-C and SIGTERM: while a run trains, the first asks it to save and stop; otherwise, and the second time, they
//! end the program.

use crate::failure::{Code, Failure, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once the run should stop.
pub static REQUESTED: AtomicBool = AtomicBool::new(false);

static IS_TRAINING: AtomicBool = AtomicBool::new(false);

/// Installs the handler.
pub fn listen() -> Result<()> {
    let handle = || {
        if !IS_TRAINING.load(Ordering::Relaxed) || REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(Code::Interrupted as i32);
        }
        eprintln!("\nfinishing this step and saving; once more to stop at once");
    };
    ctrlc::set_handler(handle)
        .map_err(|error| Failure::input(format!("cannot listen for Ctrl-C: {error}"), "report this as a bug"))
}

/// From now on there is something to save.
pub fn training_begins() {
    IS_TRAINING.store(true, Ordering::Relaxed);
}

/// Nothing is left to save.
pub fn training_ends() {
    IS_TRAINING.store(false, Ordering::Relaxed);
}
