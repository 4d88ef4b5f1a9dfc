//! The training floor: the loop and everything a run keeps, from its config to its last checkpoint.

pub mod checkpoint;
pub mod checkpoints;
pub mod config;
pub mod evaluate;
pub mod fleet;
pub mod ledger;
pub mod local;
pub mod lock;
pub mod log;
pub mod manifest_file;
pub mod merge;
pub mod optimizer;
mod record;
mod rescue;
pub mod sample;
mod saving;
pub mod schedule;
pub mod score;
pub mod step;
pub mod stop;
pub mod tfevents;
pub mod worker;
