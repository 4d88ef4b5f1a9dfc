//! Which fleet and layout, at what speed and price, and why not the others.
//!
//! Text comes in and values go out: no clock, file, device or randomness. Reading order: `money`, `catalogue`,
//! `request`; `layout` prices a replica on one chip type and `pair` on two, `fleet` a fleet of them, `search` finds the
//! best, `planner`, `explain` and `binding` say it; `profile` and `predict` price one device's step as measured,
//! `together` the step of several on one machine.

pub mod answer;
mod binding;
pub mod catalogue;
mod cover;
mod explain;
pub mod fleet;
pub mod layout;
pub mod money;
mod pair;
pub mod planner;
pub mod predict;
pub mod profile;
pub mod request;
pub mod search;
pub mod together;
pub mod uneven;
mod validate;

pub use catalogue::{Catalogue, Chip, Price};
pub use money::{Money, Rate};
pub use planner::plan;
pub use request::{Assumptions, ChipUse, Constraints, ModelChoice, Objective, Request};
