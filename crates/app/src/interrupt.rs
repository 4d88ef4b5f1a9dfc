//! Signals that end a program: while a run trains, the first asks it to save and stop; otherwise they end
//! the program, and so does the second Ctrl-C.

use crate::failure::{Code, Result};
use crate::output;
use lingot_spec::Problem;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::time::{Duration, Instant};

/// Whether the run was asked to stop.
pub static REQUESTED: AtomicBool = AtomicBool::new(false);

static IS_TRAINING: AtomicBool = AtomicBool::new(false);

/// Acts on a signal. `is_repeated`: the same one was sent before, by somebody who does not want to wait.
fn act(name: &str, is_repeated: bool) {
    if !IS_TRAINING.load(Ordering::Relaxed) || is_repeated {
        std::process::exit(Code::Interrupted as i32);
    }
    if !REQUESTED.swap(true, Ordering::Relaxed) {
        output::notice(&format!(
            "\n{name}: finishing this step and saving; press Ctrl-C again to stop at once"
        ));
    }
}

/// Listens for signals from now on. Called before any other thread begins, since a signal goes to whichever
/// thread does not block it.
#[cfg(unix)]
pub fn listen() -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};

    // The system sends SIGXCPU every second, and a session that ends sends SIGTERM and SIGHUP together: only
    // those that people send to end a program count twice.
    const ASKING: [Signal; 6] =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGXCPU];
    const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT];

    // One wish may arrive twice: `timeout` sends a signal to its child and to the child's group.
    const AT_ONCE: Duration = Duration::from_secs(1);

    let mut signals: SigSet = ASKING.into_iter().collect();
    if is_hangup_ignored() {
        signals.remove(Signal::SIGHUP);
    }
    let failed = |error: nix::Error| Problem::bug(format!("cannot listen for signals: {error}"));
    signals.thread_block().map_err(failed)?;
    // A shell starts what it runs in the background with Ctrl-C ignored, and an ignored signal never arrives
    // here. A handler ends that; it is not called while the signal is blocked, and does nothing for SIGHUP.
    ctrlc::set_handler(|| ()).map_err(|error| Problem::bug(format!("cannot listen for signals: {error}")))?;
    let wait = move || {
        let mut seen = SigSet::empty();
        let mut first = None;
        while let Ok(signal) = signals.wait() {
            let is_later = first.get_or_insert_with(Instant::now).elapsed() >= AT_ONCE;
            act(signal.as_str(), is_later && seen.contains(signal) && ENDING.contains(&signal));
            seen.add(signal);
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map_err(|error| Problem::bug(format!("cannot begin a thread: {error}")))?;
    Ok(())
}

/// Whether the program was started by `nohup`, so that it outlives its terminal. Where the system does not
/// tell, a run saves and stops.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (mask >> (nix::sys::signal::Signal::SIGHUP as u64 - 1)) & 1 == 1)
}

/// Listens for Ctrl-C from now on.
#[cfg(not(unix))]
pub fn listen() -> Result<()> {
    let seen = AtomicBool::new(false);
    let handle = move || act("Ctrl-C", seen.swap(true, Ordering::Relaxed));
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
