//! Models in files that other programs open: numbers by name in, numbers by name out.
//!
//! The crate knows no run and no step: `train` decides what a checkpoint holds, and writes it through
//! [`tensor_file`]. It imports `spec` alone. Reading order: `tensor_file`, `new_folder`, `abilities`, then
//! `hugging_face` and `gguf`.

#![deny(missing_docs)]

pub mod abilities;
pub mod disk;
pub mod gguf;
pub mod hugging_face;
pub mod new_folder;
pub mod tensor_file;
mod weights;
