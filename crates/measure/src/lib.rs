//! How fast devices and fleets are: whole training steps, single ops within them, and fleets against their
//! devices.
//!
//! It trains nothing worth keeping, and writes nothing but temporary files.
//!
//! Reading order: `spread` is the form of every figure. `case` is what the training benchmark trains, and
//! `training` the step that it and `ops` time. [`steps`] is the training benchmark, with the ceiling of
//! `rate` and the peak of `memory`; [`ops`] times each op of the setups of [`grid`], for profiles; [`fleet`]
//! times a fleet against the sum of its devices.

#![deny(missing_docs)]

mod case;
pub mod fleet;
pub mod grid;
mod memory;
pub mod ops;
mod rate;
mod spread;
pub mod steps;
mod training;

pub use case::{Case, Routing};
pub use rate::{Ceilings, Rates, ceilings};
pub use spread::Spread;
pub use steps::{Peak, Report, Request, RoutingReport};
