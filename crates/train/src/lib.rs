//! The training floor: the loop and everything a run leaves behind, from its config to its last checkpoint.
//!
//! Reading order:
//! 1. `step`: the loop, and the failure policy.
//! 2. `engine`: who takes a step: `alone`, `in_step`, `apart`. `crew`: who the workers are: `threads`,
//!    `emulated`.
//! 3. `training`, `home`, `compute`, `optimizer`, `schedule`, `data`, `meter`: what a step works on.
//! 4. `guard`: pure verdicts; `step_guard`, `rollbacks`: what is done about them. `checkpoint`: what is
//!    saved. `record`: what is written down. `patience`: how long a disk is waited for.
//! 5. `config`, `start`, `lock`: how a run begins. `evaluate`, `score`, `sample`: what a trained model is
//!    good for.

#![deny(missing_docs)]

pub mod checkpoint;
mod compute;
pub mod config;
mod crew;
pub mod data;
mod engine;
pub mod evaluate;
pub mod guard;
mod home;
mod lock;
mod meter;
pub mod optimizer;
mod patience;
pub mod record;
pub mod resume;
mod rollbacks;
pub mod sample;
pub mod schedule;
pub mod score;
mod start;
pub mod step;
mod step_guard;
mod training;

pub use crew::Tamper;
