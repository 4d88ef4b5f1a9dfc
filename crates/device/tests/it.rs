//! What the device floor promises: gradients that are gradients, backends that agree, front doors that
//! refuse.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "it/backends.rs"]
mod backends;
#[cfg(unix)]
#[path = "it/chip.rs"]
mod chip;
#[path = "it/conformance.rs"]
mod conformance;
#[path = "it/front_doors.rs"]
mod front_doors;
#[path = "it/gradients/mod.rs"]
mod gradients;
#[cfg(unix)]
#[path = "it/kernels.rs"]
mod kernels;
#[cfg(unix)]
#[path = "it/maker.rs"]
mod maker;
#[cfg(unix)]
#[path = "it/torch.rs"]
mod torch;
#[cfg(unix)]
#[path = "it/wide.rs"]
mod wide;
