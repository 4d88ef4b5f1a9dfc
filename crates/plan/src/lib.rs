//! Which fleet and layout, at what speed and price, and why not the others.
//!
//! Text comes in and values go out: no clock, file, device or randomness. Reading order: `money`, `catalogue`,
//! `request`, `answer`, then `cost` (the model of time and memory, one file per concern) and `search`.

pub mod answer;
pub mod catalogue;
pub mod cost;
mod error;
pub mod money;
pub mod predict;
pub mod profile;
pub mod request;
pub mod search;

pub use answer::{Infeasible, Layout, MemoryBreakdown, Plan, Rejection, Search, TimeBreakdown};
pub use catalogue::{Catalogue, Chip, Price};
pub use error::{Error, Result};
pub use money::{Money, Rate};
pub use request::{Assumptions, ChipUse, Constraints, ModelChoice, Objective, Request, Strategy};
pub use search::search;
