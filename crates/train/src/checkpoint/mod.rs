//! Checkpoints: a folder that is either complete or not there, and says by itself whether it is sound.
//!
//! ```text
//! checkpoints/step-00000100/  weights.safetensors  optimizer.safetensors  state.safetensors  manifest.json
//! ```
//!
//! Written as `step-00000100.partial`, every file and folder synced, then renamed. `docs/checkpoints.md` is
//! the reference. Reading order: `snapshot` (what is saved), `writer`, `reader`, `manifest`, `newest`,
//! `merge`.

pub mod manifest;
pub mod merge;
pub mod newest;
mod places;
mod reader;
mod snapshot;
mod writer;

pub use lingot_formats::tensor_file::{Named, Tensor};
pub use reader::{Loaded, load, load_weights, verify};
pub(crate) use snapshot::{Flat, Snapshot, overwrite, restore};
pub(crate) use writer::{Saved, Saver, Saving};
pub use writer::{save, save_as};

/// The file of a checkpoint's weights.
pub const WEIGHTS: &str = "weights.safetensors";
/// The file of a checkpoint's moments, and of what an engine keeps between steps.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// The file of the routers' state.
pub const STATE: &str = "state.safetensors";
