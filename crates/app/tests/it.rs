//! The program from outside: what a person types, and what a script may rely on.

// Clippy's exemption for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod it {
    mod brought;
    mod commands;
    mod devices;
    mod help;
    mod hints;
    mod house;
    mod input;
    #[cfg(unix)]
    mod interrupt;
    mod kill;
    mod mistakes;
    #[cfg(unix)]
    mod night;
    #[cfg(unix)]
    mod pasted;
    mod plan;
    mod program;
    #[cfg(target_os = "linux")]
    mod streams;
    #[cfg(unix)]
    mod torch;
}
