//! The Mixture-of-Experts transformer: forward, hand-written backward, initial values.
//!
//! It stands on `spec` and `device`, and mentions neither a vendor nor a peer nor a file. Reading order:
//! `transformer`, `seam`, `block`, `attention`, `moe`, `head`, `mtp`; then `bundle`, `weights`, `gradients`,
//! `routers`, `decode`, `pool`.
//!
//! Letters of the shapes: T tokens, D width, H heads, G key and value heads, C head width, V vocabulary, E
//! experts, K choices, R = T K rows sorted by expert, F inner width.

#![deny(missing_docs)]

mod attention;
mod block;
mod bundle;
mod context;
mod decode;
mod gradients;
mod head;
mod initial;
mod inputs;
mod mlp;
mod moe;
mod mtp;
mod pool;
pub mod random;
mod routers;
mod seam;
mod tally;
mod transformer;
mod weights;

pub use bundle::Bundle;
pub use decode::Cache;
pub use gradients::Gradients;
pub use inputs::{Inputs, Noise, Rows, Totals, Warmth};
pub use pool::{Next, Pool, SequenceId};
pub use routers::LogitStatistics;
pub use seam::{Pass, Resident, Seam};
pub use tally::{Counts, Losses, Reading, Tally};
pub use transformer::{Model, Through};
