//! Ctrl-C and SIGTERM: while a run trains, the first asks it to save and stop; otherwise, and the second
//! time, they end the program.

use crate::failure::{Code, Result};
use crate::output;
use lingot_spec::Problem;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the run was asked to stop.
pub static REQUESTED: AtomicBool = AtomicBool::new(false);

static IS_TRAINING: AtomicBool = AtomicBool::new(false);

/// Installs the handler of both signals.
pub fn listen() -> Result<()> {
    let handle = || {
        if !IS_TRAINING.load(Ordering::Relaxed) || REQUESTED.swap(true, Ordering::Relaxed) {
            std::process::exit(Code::Interrupted as i32);
        }
        output::notice("\nfinishing this step and saving; press Ctrl-C again to stop at once");
    };
    Ok(ctrlc::set_handler(handle)
        .map_err(|error| Problem::bug(format!("cannot listen for Ctrl-C: {error}")))?)
}

/// Marks that from now on an interrupt saves before it ends the program.
pub fn training_begins() {
    IS_TRAINING.store(true, Ordering::Relaxed);
}

/// Marks that nothing is left to save.
pub fn training_ends() {
    IS_TRAINING.store(false, Ordering::Relaxed);
}
