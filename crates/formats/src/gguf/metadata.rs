//! The keys of a GGUF file that describe the model.

use super::file::{Metadata, Value};
use crate::abilities::Abilities;
use crate::hugging_face::ElementType;
use lingot_spec::model::{ModelSpec, Score};

/// The keys of a model in an architecture that can express it.
pub(super) fn metadata(
    model: &ModelSpec,
    architecture: &Abilities,
    element: ElementType,
    context_tokens: u32,
) -> Metadata {
    let name = architecture.name;
    let file_type = match element {
        ElementType::F32 => 0,
        ElementType::F16 => 1,
        ElementType::Bf16 => 32,
    };
    let mut keys = vec![
        ("general.architecture".into(), Value::Text(name.into())),
        ("general.type".into(), Value::Text("model".into())),
        ("general.file_type".into(), Value::Number(file_type)),
    ];
    let mut add = |key: &str, value: Value| keys.push((format!("{name}.{key}"), value));
    // These two have no width for experts alone.
    let has_one_width = ["llama", "olmoe"].contains(&name) || model.dense_layers == 0;
    let feed_forward = if has_one_width { model.expert_width } else { model.dense_width };
    for (key, number) in [
        ("vocab_size", model.vocabulary),
        ("context_length", context_tokens),
        ("embedding_length", model.width),
        ("block_count", model.layers + model.mtp_layers),
        ("feed_forward_length", feed_forward),
        ("attention.head_count", model.heads),
        ("attention.head_count_kv", model.kv_heads),
        ("attention.key_length", model.head_width),
        ("attention.value_length", model.head_width),
        ("rope.dimension_count", model.rotary_width),
        ("expert_count", model.experts),
        ("expert_used_count", model.choices),
        ("expert_feed_forward_length", model.expert_width),
        ("expert_shared_count", model.shared_experts),
        ("leading_dense_block_count", model.dense_layers),
        ("expert_gating_func", if model.router.score == Score::Softmax { 1 } else { 2 }),
    ] {
        add(key, Value::Number(number));
    }
    add("attention.layer_norm_rms_epsilon", Value::Real(model.norm_epsilon as f32));
    add("rope.freq_base", Value::Real(model.rope_theta as f32));
    add("expert_weights_norm", Value::Flag(model.router.renormalise));
    if architecture.scales {
        add("expert_weights_scale", Value::Real(model.router.scale as f32));
    }
    if model.router.groups > model.router.groups_kept {
        add("expert_group_count", Value::Number(model.router.groups));
        add("expert_group_used_count", Value::Number(model.router.groups_kept));
    }
    if model.mtp_layers > 0 {
        add("nextn_predict_layers", Value::Number(model.mtp_layers));
    }
    keys
}
