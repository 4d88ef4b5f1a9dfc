//! A model as the config.json of a format.

use super::habits::habits;
use super::keys::Object;
use super::rotation::{parameters, rotary_factor};
use crate::hugging_face::elements::ElementType;
use crate::hugging_face::format::Format;
use crate::hugging_face::kept::Kept;
use crate::hugging_face::tokenizer::SpecialIds;
use lingot_spec::model::ModelSpec;
use serde_json::{Value, json};

/// The config.json of a model that the format can express and whose NormHead is folded. Keys that Lingot has
/// no word for come from `kept`, where the model was imported.
pub(crate) fn write(
    model: &ModelSpec,
    format: Format,
    element: ElementType,
    context_tokens: u32,
    ids: &SpecialIds,
    kept: Option<&Kept>,
) -> Object {
    let mut config = defaults(format, context_tokens);
    if let Some(kept) = kept {
        let of_any_format = ["max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"];
        let carried = kept
            .config
            .iter()
            .filter(|(key, _)| kept.format == format || of_any_format.contains(&key.as_str()));
        config.extend(carried.map(|(key, value)| (key.clone(), value.clone())));
    }
    ids.fill(&mut config);
    insert(&mut config, common(model, format, element));
    insert(&mut config, own(model, format));
    config
}

fn insert(config: &mut Object, more: Value) {
    if let Value::Object(more) = more {
        config.extend(more);
    }
}

/// The keys that Lingot has no word for, as a model trained by Lingot has them.
fn defaults(format: Format, context_tokens: u32) -> Object {
    let mut config = Object::new();
    insert(
        &mut config,
        json!({
            "architectures": [format.architecture()],
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "max_position_embeddings": context_tokens,
            "output_router_logits": false,
            "use_cache": true,
        }),
    );
    if format == Format::Dots1 {
        config.insert("sliding_window".into(), Value::Null);
    }
    if format.is_bailing() {
        let (home, stem) = match format {
            Format::BailingMoe => ("inclusionAI/Ling-lite", "bailing_moe"),
            _ => ("inclusionAI/Ling-mini-2.0", "bailing_moe_v2"),
        };
        let class = format.architecture().trim_end_matches("ForCausalLM");
        insert(
            &mut config,
            json!({
                // `transformers` has no class of its own for these and takes the one published with Ling.
                "auto_map": {
                    "AutoConfig": format!("{home}--configuration_{stem}.{class}Config"),
                    "AutoModel": format!("{home}--modeling_{stem}.{class}Model"),
                    "AutoModelForCausalLM": format!("{home}--modeling_{stem}.{class}ForCausalLM"),
                },
                "embedding_dropout": 0.0,
                "output_dropout": 0.0,
            }),
        );
    }
    config
}

/// The keys that all formats share.
fn common(model: &ModelSpec, format: Format, element: ElementType) -> Value {
    json!({
        "model_type": format.name(),
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_width,
        // Unused without dense layers, but some readers reject a width of 0.
        "intermediate_size": if model.dense_width > 0 { model.dense_width } else { model.expert_width },
        (habits(format).expert_width): model.expert_width,
        "num_experts_per_tok": model.choices,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "initializer_range": model.initial_deviation,
        "tie_word_embeddings": model.tied,
        // Older releases of `transformers` look for the first, newer ones for the second.
        "torch_dtype": element.config_name(),
        "dtype": element.config_name(),
    })
}

/// The keys of one format.
#[expect(clippy::too_many_lines, reason = "a table")]
fn own(model: &ModelSpec, format: Format) -> Value {
    let router = &model.router;
    match format {
        Format::Mixtral => json!({
            "num_local_experts": model.experts,
            "sliding_window": null,
            "rope_parameters": parameters(model, format),
        }),
        Format::Olmoe => json!({
            "num_experts": model.experts,
            "norm_topk_prob": router.renormalise,
            "attention_bias": false,
            "clip_qkv": null,
            "rope_parameters": parameters(model, format),
        }),
        Format::Dots1 => json!({
            "n_routed_experts": model.experts,
            "n_shared_experts": model.shared_experts,
            "first_k_dense_replace": model.dense_layers,
            "n_group": router.groups,
            "topk_group": router.groups_kept,
            "routed_scaling_factor": router.scale,
            "norm_topk_prob": router.renormalise,
            "attention_bias": false,
            "rope_parameters": parameters(model, format),
        }),
        Format::Qwen3Moe => json!({
            "norm_topk_prob": router.renormalise,
            "num_experts": model.experts,
            "num_local_experts": model.experts,
            "mlp_only_layers": (0..model.dense_layers).collect::<Vec<_>>(),
            "decoder_sparse_step": 1,
            "attention_bias": false,
            "use_sliding_window": false,
            "sliding_window": null,
            "rope_parameters": parameters(model, format),
        }),
        Format::Glm4Moe => json!({
            "norm_topk_prob": router.renormalise,
            "n_routed_experts": model.experts,
            "n_shared_experts": model.shared_experts,
            "first_k_dense_replace": model.dense_layers,
            "n_group": router.groups,
            "topk_group": router.groups_kept,
            "routed_scaling_factor": router.scale,
            "use_qk_norm": model.qk_norm,
            "attention_bias": false,
            "partial_rotary_factor": rotary_factor(model),
            "rope_parameters": parameters(model, format),
            "num_nextn_predict_layers": model.mtp_layers,
        }),
        Format::BailingMoe => json!({
            "norm_topk_prob": router.renormalise,
            "num_experts": model.experts,
            "num_shared_experts": model.shared_experts,
            "first_k_dense_replace": model.dense_layers,
            "norm_head": model.norm_head,
            "norm_softmax": false,
            "use_bias": false,
            "use_qkv_bias": false,
            "rope_scaling": null,
        }),
        Format::BailingMoeV2 => json!({
            "norm_topk_prob": router.renormalise,
            "num_experts": model.experts,
            "num_shared_experts": model.shared_experts,
            "moe_shared_expert_intermediate_size": model.expert_width,
            "first_k_dense_replace": model.dense_layers,
            "n_group": router.groups,
            "topk_group": router.groups_kept,
            "routed_scaling_factor": router.scale,
            "score_function": "sigmoid",
            "moe_router_enable_expert_bias": true,
            "use_qk_norm": model.qk_norm,
            "partial_rotary_factor": rotary_factor(model),
            "norm_head": model.norm_head,
            "norm_softmax": false,
            "use_bias": false,
            "use_qkv_bias": false,
            "rope_scaling": null,
            "num_nextn_predict_layers": model.mtp_layers,
            "mtp_loss_scaling_factor": model.mtp_weight,
        }),
    }
}
