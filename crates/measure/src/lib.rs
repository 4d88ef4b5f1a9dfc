//! How fast devices and fleets are: whole training steps, single ops within them, and fleets against their devices.
//!
//! It trains nothing worth keeping. Reading order: `steps`, `ops`, `fleet`.

mod case;
pub mod fleet;
pub mod grid;
mod memory;
pub mod ops;
mod rate;
pub mod steps;

pub use case::{Case, Routing};
pub use rate::Rates;
pub use steps::{Report, Request, RoutingReport, Spread};
