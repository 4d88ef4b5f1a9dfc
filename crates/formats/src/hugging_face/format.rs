//! The architectures whose files Lingot reads and writes.

use crate::abilities::{self, Abilities};
use lingot_spec::model::Score;
use serde::{Deserialize, Serialize};

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
    /// Softmax routing that always renormalises, and no shared experts.
    Mixtral,
    /// Softmax routing; query and key are normalised over all heads at once.
    Olmoe,
    /// The router of DeepSeek-V3 over grouped-query attention.
    Dots1,
}

impl Format {
    /// All of them, in the order in which they are offered.
    pub const ALL: [Format; 7] = [
        Format::Qwen3Moe,
        Format::Glm4Moe,
        Format::BailingMoe,
        Format::BailingMoeV2,
        Format::Mixtral,
        Format::Olmoe,
        Format::Dots1,
    ];

    /// The `model_type` of its config.json, which is also the name on Lingot's command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Qwen3Moe => "qwen3_moe",
            Format::Glm4Moe => "glm4_moe",
            Format::BailingMoe => "bailing_moe",
            Format::BailingMoeV2 => "bailing_moe_v2",
            Format::Mixtral => "mixtral",
            Format::Olmoe => "olmoe",
            Format::Dots1 => "dots1",
        }
    }

    /// The format of a `model_type`.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        Format::ALL.map(Format::name).join(", ")
    }

    /// The class that `transformers` builds.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Format::Qwen3Moe => "Qwen3MoeForCausalLM",
            Format::Glm4Moe => "Glm4MoeForCausalLM",
            Format::BailingMoe => "BailingMoeForCausalLM",
            Format::BailingMoeV2 => "BailingMoeV2ForCausalLM",
            Format::Mixtral => "MixtralForCausalLM",
            Format::Olmoe => "OlmoeForCausalLM",
            Format::Dots1 => "Dots1ForCausalLM",
        }
    }

    /// What its models may have.
    pub(crate) fn abilities(self) -> &'static Abilities {
        match self {
            Format::Qwen3Moe => &abilities::QWEN3_MOE,
            Format::Glm4Moe => &abilities::GLM4_MOE,
            Format::BailingMoe => &abilities::BAILING_MOE,
            Format::BailingMoeV2 => &abilities::BAILING_MOE_V2,
            Format::Mixtral => &abilities::MIXTRAL,
            Format::Olmoe => &abilities::OLMOE,
            Format::Dots1 => &abilities::DOTS1,
        }
    }

    /// Whether the router scores by sigmoid and selects with a bias.
    pub(super) fn is_sigmoid(self) -> bool {
        self.abilities().score == Score::Sigmoid
    }

    pub(super) fn is_bailing(self) -> bool {
        matches!(self, Format::BailingMoe | Format::BailingMoeV2)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
