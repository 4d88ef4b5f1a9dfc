//! The proof that two devices compute the same thing: op by op, module by module, step by step, over whole
//! training curves.
//!
//! Every level runs the same small training task ([`task`]) or the conformance suite on both devices and
//! reports where they differ. Nothing here repairs anything.
//!
//! Reading order: `task` and `trainer` are what is trained. `trace` compares one device with the other op by
//! op, `fed` gives both the same routing; `modules`, `step`, `curve` and `run` (with `logged`) are the
//! levels, `certificate`, `page`, `scope` and `picture` their report. `faults` and `self_test` prove that the
//! levels see what they should.

#![deny(missing_docs)]

pub mod certificate;
pub mod curve;
pub mod faults;
mod fed;
mod logged;
pub mod modules;
mod page;
mod picture;
pub mod run;
pub mod scope;
pub mod self_test;
pub mod step;
pub mod task;
pub mod trace;
pub mod trainer;

pub use certificate::Certificate;

/// A listener for progress: the name of the work, the amount done, and the whole amount.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);
