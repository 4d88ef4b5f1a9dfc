//! Corpora, tokenizers, shards, and the batch of a step.
//!
//! Text goes one way: `corpus` reads documents out of files, `tokenizer` makes tokens of them, `prepare` writes
//! them as Megatron shards (`shards`) with a `data.json` that says what they were made of, and `batch` cuts the
//! sequences of a step out of the shards. Nothing here knows what trains on them.

mod batch;
mod columns;
mod corpus;
mod files;
mod foreign;
mod lines;
mod manifest;
mod order;
mod prepare;
mod progress;
mod shards;
mod split;
mod tokenizer;

pub use batch::{Batch, Dataset};
pub use corpus::{Piece, pieces, sources};
pub use lines::parse_line;
pub use manifest::{Prepared, PreparedCorpus};
pub use prepare::prepare;
pub use progress::{Progress, Stage};
pub use shards::{ShardWriter, Shards};
pub use tokenizer::{Decoding, END_OF_DOCUMENT, Tokenizer};
