//! Which fleet and layout, at what speed and price, and why not the others.

pub mod predict;
pub mod profile;
