//! What an import remembers for the export that follows it.

use super::elements::ElementType;
use super::format::Format;
use super::names::Experts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What an imported model carried that Lingot has no word for. Stored beside the weights and given to
/// `export`, it makes the exported folder say the same again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The format of the imported folder.
    pub format: Format,
    /// Keys of config.json that the model does not follow from.
    pub config: Map<String, Value>,
    /// All of generation_config.json, if there was one.
    pub generation: Option<Map<String, Value>>,
    /// Element types of tensors for which export would choose another one, by their Hugging Face name.
    pub element_types: BTreeMap<String, ElementType>,
    /// How the imported folder stores experts.
    #[serde(default)]
    pub experts: Experts,
}

impl Kept {
    /// The tokens of the longest text that the imported model can read, where config.json says it.
    pub(crate) fn context_tokens(&self) -> Option<u32> {
        u32::try_from(self.config.get("max_position_embeddings")?.as_u64()?).ok()
    }

    /// The tokens that end a text, any of them: those of generation_config.json, or else of config.json.
    /// Empty where neither says it.
    pub fn ends(&self) -> Vec<u32> {
        let ids = |object: &Map<String, Value>| -> Vec<u32> {
            let listed = match object.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.as_slice(),
                Some(id) => std::slice::from_ref(id),
                None => &[],
            };
            listed.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
        };
        let generation = self.generation.as_ref().map(ids).filter(|ends| !ends.is_empty());
        generation.unwrap_or_else(|| ids(&self.config))
    }
}
