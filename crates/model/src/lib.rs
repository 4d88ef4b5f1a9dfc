//! The Mixture-of-Experts transformer: forward, hand-written backward, initial values.
//!
//! It stands on `spec` and `device`, and mentions neither a vendor nor a peer nor a file.
//! Reading order: `transformer`, `block`, `attention`, `moe`, `head`, `mtp`; then `bundle`, `weights`, `decode`.

mod attention;
mod block;
mod bundle;
mod decode;
mod head;
mod inputs;
mod mlp;
mod moe;
mod mtp;
pub mod random;
mod tally;
mod transformer;
mod weights;

pub use bundle::Bundle;
pub use decode::Cache;
pub use inputs::{Inputs, Rows, Totals, Warmth};
pub use tally::{Counts, Losses, Tally};
pub use transformer::{Gradients, Model, Reach};
