//! How workers meet and agree: who computes how much, when they meet, what they make of each other's changes.
//!
//! Everything that decides is a pure function that returns its reason. Nothing here knows a model: it sees numbers in
//! named groups. The algorithm is EDiT and A-EDiT (arXiv 2412.07210) with the constants of its released code (atorch).

pub mod exchange;
pub mod membership;
pub mod outer;
pub mod penalty;
pub mod shares;
pub mod strategy;
pub mod sum;
pub mod traffic;
