//! How workers agree: who computes how much, when they meet, and how their changes are combined.
//!
//! Decisions are pure functions that return their reason. Nothing here knows a model: it sees numbers in
//! named groups. There is no I/O, clock, thread or randomness here: callers pass in what they measured. The
//! algorithm is EDiT and A-EDiT (arXiv 2412.07210) with the constants of its released code (atorch).

#![deny(missing_docs)]

pub mod exchange;
pub mod membership;
pub mod outer;
pub mod penalty;
pub mod shares;
pub mod strategy;
pub mod sum;
pub mod traffic;
