//! The proof that two devices compute the same thing: op by op, module by module, over whole training curves.
//!
//! Every level runs the same small training task ([`task`]) or the conformance suite on both devices and says where they
//! part. Nothing here repairs anything. Reading order: `task`, `trainer`, `trace`, `modules`, `curve`, `faults`.

pub mod certificate;
pub mod curve;
pub mod faults;
pub mod modules;
mod picture;
pub mod run;
pub mod self_test;
pub mod task;
pub mod trace;
pub mod trainer;

pub use certificate::Certificate;

/// How far a piece of work has come: its name, what is done, of how much.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);
