//! How fast devices and fleets are: whole training steps, single ops within them, and fleets against their
//! devices.
//!
//! It trains nothing worth keeping, and writes nothing but temporary files.
//!
//! Reading order: `spread` is the form of every figure. `case` is what the training benchmark trains, and
//! `training` the step that it and `ops` time. [`steps`] is the training benchmark, with the ceiling of
//! `rate` and the peak of `memory`; [`ops`] times each op of the setups of [`grid`], for profiles, by the
//! device's `clock`; [`table`] lays the ops of one model beside their floors; [`links`] times copies between
//! host and device; [`fleet`] times a fleet against the sum of its devices.

#![deny(missing_docs)]

mod case;
mod clock;
pub mod fleet;
pub mod grid;
pub mod links;
mod memory;
pub mod ops;
mod rate;
mod spread;
pub mod steps;
pub mod table;
mod training;

pub use case::{Case, Routing};
pub use rate::{Ceilings, Rates, ceilings};
pub use spread::Spread;
pub use steps::{Peak, Report, Request, RoutingReport};
