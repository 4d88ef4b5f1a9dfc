//! Which fleet and layout, at what speed and price, and why not the others.
//!
//! Text comes in and values go out: no clock, file, device, thread or randomness. The front door is [`plan`].
//!
//! Reading order: `money`, `catalogue` and `request` are what comes in. `times`, `pieces`, `stage` and
//! `layout` price a replica on one chip type, `pair` on two. `fleet` prices a fleet of replicas; `search`,
//! with the bounds of `cover`, finds the best. `planner` makes the question; `describe`, `explain`,
//! `rejected`, `binding` and `forecast` make the `answer`. `floors` has how far ops are from their
//! floors. Apart from these, `profile` and `predict` price one device's step as measured, and `together` the
//! step of several devices on one machine. `published` holds the same distances against published runs.

#![deny(missing_docs)]

pub mod answer;
mod binding;
mod catalogue;
mod cover;
mod describe;
mod explain;
pub mod fleet;
mod floors;
mod forecast;
mod layout;
mod money;
mod pair;
mod pieces;
mod planner;
pub mod predict;
pub mod profile;
pub mod published;
mod rejected;
mod request;
pub mod search;
mod stage;
mod times;
pub mod together;
mod uneven;
mod validate;

pub use catalogue::{Catalogue, Chip, Price};
pub use money::{Money, Rate};
pub use planner::plan;
pub use request::{Assumptions, ChipUse, Constraints, ModelChoice, Objective, Request};
