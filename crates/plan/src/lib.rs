//! Which fleet and layout, at what speed and price, and why not the others.
//!
//! Text comes in and values go out: no clock, file, device or randomness. Reading order: `money`, `catalogue`,
//! `request`; `profile` and `predict` price one device's step. The search over fleets is yet to come.

pub mod answer;
pub mod catalogue;
mod cover;
mod error;
pub mod fleet;
pub mod money;
pub mod predict;
pub mod profile;
pub mod request;
pub mod search;

pub use catalogue::{Catalogue, Chip, Price};
pub use error::{Error, Result};
pub use money::{Money, Rate};
pub use request::{Assumptions, ChipUse, Constraints, ModelChoice, Objective, Request};
