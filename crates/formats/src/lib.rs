//! Models in files that other programs open: numbers by name in, numbers by name out.
//!
//! It knows no run and no step: what a checkpoint holds is decided by `train`, which writes its numbers through
//! [`tensor_file`]. Imports `spec` alone. Reading order: `tensor_file`, then `hugging_face`.

pub mod hugging_face;
pub mod tensor_file;
