//! A model as one GGUF file, which llama.cpp and everything built on it open.
//!
//! `layout` lists the tensors of an architecture and the pieces of Lingot's that each is made of, `metadata`
//! describes the model, `vocabulary` the tokenizer; `file` writes version 3 of the format (ggml's
//! specification, docs/gguf.md). Which models an architecture can have is in `abilities`.

mod export;
mod file;
mod layout;
mod metadata;
mod vocabulary;

pub use export::{Exported, Target, export};
