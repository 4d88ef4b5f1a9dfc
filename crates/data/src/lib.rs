//! Corpora, tokenizers, shards, and the batch of a step.
//!
//! Text goes one way: `corpus` reads documents out of files, `tokenizer` makes tokens of them, `prepare`
//! writes them as Megatron shards (`shards`) with a `data.json` that says what they were made of, and `batch`
//! cuts the sequences of a step out of the shards. Nothing here knows what trains on them.

#![deny(missing_docs)]

mod aside;
mod batch;
mod columns;
mod corpus;
mod decoding;
mod document;
mod encode;
mod ends;
mod field;
mod files;
mod foreign;
mod growth;
mod index;
mod lines;
mod manifest;
mod order;
mod origin;
mod packing;
mod pages;
mod patience;
mod place;
mod prepare;
mod progress;
mod record;
mod records;
mod shards;
mod split;
mod survey;
mod tokenizer;

pub use batch::{Batch, Dataset};
pub use corpus::{pieces, sources};
pub use decoding::Decoding;
pub use document::{Piece, Pieces};
pub use field::{Parsed, parse_line};
pub use files::hash_of;
pub use manifest::{Prepared, PreparedCorpus};
pub use origin::DataFiles;
pub use prepare::{prepare, prepare_to_train};
pub use progress::{Progress, Stage};
pub use shards::{ShardWriter, Shards};
pub use tokenizer::{END_OF_DOCUMENT, Tokenizer};
