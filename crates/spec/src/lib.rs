//! The ground floor: the nouns of Lingot and the arithmetic that follows from them alone.
//!
//! Every other crate may depend on it; it imports serde and nothing else. It does no I/O and has no clock, no
//! threads, no randomness and no unsafe code. Reading order: `model`, `presets`, `tensors`, `cost`, `step`,
//! `run`, `event`, `manifest`.

#![deny(missing_docs)]

pub mod cost;
pub mod event;
pub mod manifest;
pub mod model;
pub mod presets;
pub mod problem;
pub mod python_json;
pub mod run;
pub mod scaling;
pub mod special_tokens;
pub mod step;
pub mod tensors;

pub use cost::Cost;
pub use model::{ModelSpec, RouterSpec, Score};
pub use problem::{Problem, ProblemKind, Result};
pub use run::RunSpec;
