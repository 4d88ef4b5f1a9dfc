//! Models in the files of Hugging Face, both ways: a folder with `config.json`, safetensors and a tokenizer,
//! which `transformers` and inference engines open.
//!
//! `names` lists the tensors of a format and the pieces of Lingot's tensors that each is made of, `config`
//! does the same for the shape of the model, `shards` reads and writes safetensors, `tokenizer` copies the
//! tokenizer; `export` and `import` put them together. What a format cannot express is refused with the
//! reason, never dropped.

mod config;
mod elements;
mod export;
mod format;
mod import;
mod kept;
#[cfg(test)]
mod mutation;
mod names;
mod refusals;
mod shards;
mod tokenizer;

pub use crate::tensor_file::Tensor;
pub use elements::ElementType;
pub use export::{Exported, Source, Target, export};
pub use format::Format;
pub use import::{Imported, import};
pub use kept::Kept;
pub use names::Experts;
pub use refusals::{fitting, refusals};
pub use tokenizer::copy_tokenizer;
pub(crate) use tokenizer::{SpecialIds, read_object, refuse_larger, special_ids};
