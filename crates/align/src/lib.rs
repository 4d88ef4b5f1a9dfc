//! The proof that two devices compute the same thing: op by op, module by module, over whole training curves.
//!
//! Every level runs the same small training task ([`task`]) or the conformance suite on both devices and
//! reports where they differ. Nothing here repairs anything.
//!
//! Reading order: `task` and `trainer` are what is trained. `trace` compares one device with the other op by
//! op; `modules`, `curve` and `run` are the levels, `certificate` and `picture` their report. `faults` and
//! `self_test` prove that the levels see what they should.

#![deny(missing_docs)]

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

/// A listener for progress: the name of the work, the amount done, and the whole amount.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);
