//! Models in the files of Hugging Face, both ways: a folder with `config.json`, safetensors and a tokenizer, which
//! `transformers` and inference engines open.
//!
//! `names` says which tensor of a format is made of which pieces of ours, `config` does the same for the shape of the
//! model, `shards` reads and writes safetensors, `tokenizer` carries the tokenizer along, `export` and `import` put
//! them together. What a format cannot express is refused with the reason, never dropped.

mod config;
mod elements;
mod export;
mod import;
#[cfg(test)]
mod mutation;
mod names;
mod refusals;
mod shards;
mod tokenizer;

pub use crate::tensor_file::Tensor;
pub use elements::ElementType;
pub use export::{Exported, Source, Target, export};
pub use import::{Imported, import};
pub use refusals::{fitting, refusals};
pub use tokenizer::copy_tokenizer;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The architectures whose files Lingot reads and writes, by their `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Softmax routing, no shared experts.
    Qwen3Moe,
    /// Sigmoid routing with a selection bias, shared experts, partial rotation.
    Glm4Moe,
    /// Ling v1: softmax routing, shared experts.
    BailingMoe,
    /// Ling v2: sigmoid routing with a selection bias, shared experts, a multi-token-prediction layer.
    BailingMoeV2,
}

impl Format {
    pub const ALL: [Format; 4] =
        [Format::Qwen3Moe, Format::Glm4Moe, Format::BailingMoe, Format::BailingMoeV2];

    /// The `model_type` of its config.json, which is also the name on Lingot's command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Qwen3Moe => "qwen3_moe",
            Format::Glm4Moe => "glm4_moe",
            Format::BailingMoe => "bailing_moe",
            Format::BailingMoeV2 => "bailing_moe_v2",
        }
    }

    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        Format::ALL.map(Format::name).join(", ")
    }

    /// The class that `transformers` builds.
    fn architecture(self) -> &'static str {
        match self {
            Format::Qwen3Moe => "Qwen3MoeForCausalLM",
            Format::Glm4Moe => "Glm4MoeForCausalLM",
            Format::BailingMoe => "BailingMoeForCausalLM",
            Format::BailingMoeV2 => "BailingMoeV2ForCausalLM",
        }
    }

    /// Whether the router scores by sigmoid and selects with a bias.
    fn is_sigmoid(self) -> bool {
        matches!(self, Format::Glm4Moe | Format::BailingMoeV2)
    }

    fn is_bailing(self) -> bool {
        matches!(self, Format::BailingMoe | Format::BailingMoeV2)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What an imported model carried that Lingot has no word for. Store it beside the weights and give it to `export`,
/// and the exported folder says the same again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub format: Format,
    /// Keys of config.json.
    pub config: Map<String, Value>,
    /// All of generation_config.json, if there was one.
    pub generation: Option<Map<String, Value>>,
    /// Tensors whose element type is not the one that export would choose, by their Hugging Face name.
    pub element_types: BTreeMap<String, ElementType>,
}
