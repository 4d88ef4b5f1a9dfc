//! The keys of a config.json that change what the model computes in ways that Lingot cannot follow.

use super::habits::habits;
use super::keys::Keys;
use crate::hugging_face::format::Format;
use lingot_spec::problem::Result;
use serde_json::json;

/// Refuses keys that change what the model computes in ways that Lingot cannot follow. An absent key and null
/// are accepted. The keys are not marked as used, so that they are given back as they are.
pub(super) fn refuse_unknown(format: Format, keys: &Keys) -> Result<()> {
    let score = if format.is_sigmoid() { "sigmoid" } else { "softmax" };
    let accepted = [
        ("hidden_act", vec![json!("silu"), json!("swish")]),
        ("attention_bias", vec![json!(false)]),
        ("use_bias", vec![json!(false)]),
        ("use_qkv_bias", vec![json!(false)]),
        ("use_rmsnorm", vec![json!(true)]),
        ("rope_interleave", vec![json!(false)]),
        ("use_sliding_window", vec![json!(false)]),
        ("quantization_config", vec![]),
        ("per_layer_config", vec![]),
        // Multi-head latent attention, and clipped projections.
        ("kv_lora_rank", vec![]),
        ("clip_qkv", vec![]),
        ("norm_softmax", vec![json!(false)]),
        ("multi_gate", vec![json!(false)]),
        ("score_function", vec![json!(score)]),
        ("scoring_func", vec![json!(score)]),
        ("moe_router_enable_expert_bias", vec![json!(true)]),
    ];
    for (key, accepted) in accepted {
        if keys.has(key) && !accepted.contains(keys.get(key)) {
            let why = match accepted.first() {
                Some(value) => format!("only {value} is supported"),
                None => "this is not supported".into(),
            };
            return Err(keys.unsupported(key, &why));
        }
    }
    // The published class of Ling v1 has biases unless told otherwise.
    if format.is_bailing() && !keys.has("use_bias") {
        return Err(
            keys.unsupported("use_bias", "only false is supported, and it is true where it is absent")
        );
    }
    refuse_windows(format, keys)
}

/// Refuses layers that see a window of the text alone.
fn refuse_windows(format: Format, keys: &Keys) -> Result<()> {
    let slides = |why: &str| Err(keys.unsupported("sliding_window", why));
    if format == Format::Mixtral && keys.has("sliding_window") {
        return slides("only null is supported");
    }
    if keys.has("layer_types") {
        let kinds = keys.get("layer_types").as_array().into_iter().flatten();
        return match kinds.clone().all(|kind| kind == "full_attention") {
            true => Ok(()),
            false => Err(keys.unsupported("layer_types", "only \"full_attention\" is supported")),
        };
    }
    match habits(format).sliding {
        Some((window, first)) if !keys.holds("sliding_window") || keys.has("sliding_window") => {
            let first = keys.get("max_window_layers").as_u64().unwrap_or(first);
            let window = keys.get("sliding_window").as_u64().unwrap_or(window);
            match keys.get("num_hidden_layers").as_u64().is_some_and(|layers| layers > first) {
                true => slides(&format!("layers from {first} on see a window of {window} tokens")),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
