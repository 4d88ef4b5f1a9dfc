//! config.json: the shape of a model in the words of each format.

use super::{ElementType, Format, Kept};
use lingot_spec::model::{ModelSpec, RouterSpec};
use lingot_spec::presets::preset;
use lingot_spec::problem::{Problem, Result};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;

use super::tokenizer::SpecialIds;

type Object = Map<String, Value>;

/// No size of a model is larger; keeps products of sizes from strangers' files within 64 bits.
const SIZE_MAX: u64 = 1 << 24;

/// The config.json of a model that the format can express and whose NormHead is folded.
pub(super) fn write(
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

/// What Lingot has no word for, as a model trained by Lingot has it.
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
        // Unused without dense layers; a width that is not 0 keeps every reader content.
        "intermediate_size": if model.dense_width > 0 { model.dense_width } else { model.expert_width },
        "moe_intermediate_size": model.expert_width,
        "num_experts_per_tok": model.choices,
        "norm_topk_prob": model.router.renormalise,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "initializer_range": model.initial_deviation,
        "tie_word_embeddings": model.tied,
        // Older and newer releases of `transformers` look for one or the other.
        "torch_dtype": element.config_name(),
        "dtype": element.config_name(),
    })
}

fn own(model: &ModelSpec, format: Format) -> Value {
    let theta = model.rope_theta;
    let router = &model.router;
    match format {
        Format::Qwen3Moe => json!({
            "num_experts": model.experts,
            "num_local_experts": model.experts,
            "mlp_only_layers": (0..model.dense_layers).collect::<Vec<_>>(),
            "decoder_sparse_step": 1,
            "attention_bias": false,
            "use_sliding_window": false,
            "sliding_window": null,
            "rope_parameters": { "rope_type": "default", "rope_theta": theta },
        }),
        Format::Glm4Moe => json!({
            "n_routed_experts": model.experts,
            "n_shared_experts": model.shared_experts,
            "first_k_dense_replace": model.dense_layers,
            "n_group": router.groups,
            "topk_group": router.groups_kept,
            "routed_scaling_factor": router.scale,
            "use_qk_norm": model.qk_norm,
            "attention_bias": false,
            "partial_rotary_factor": rotary_factor(model),
            "rope_parameters": {
                "rope_type": "default", "rope_theta": theta, "partial_rotary_factor": rotary_factor(model),
            },
            "num_nextn_predict_layers": model.mtp_layers,
        }),
        Format::BailingMoe => json!({
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

/// Readers take the whole part of `head_dim * factor`, so a quotient that falls short is lifted by one rounding.
fn rotary_factor(model: &ModelSpec) -> f64 {
    let [rotary, head] = [model.rotary_width, model.head_width].map(f64::from);
    let factor = rotary / head;
    if (head * factor).trunc() < rotary { factor.next_up() } else { factor }
}

/// The model of a config.json, and the keys that it does not use. `has_tensor` tells what the weights hold.
pub(super) fn read(
    format: Format,
    config: &Object,
    has_tensor: impl Fn(&str) -> bool,
) -> Result<(ModelSpec, Object)> {
    let keys = Keys { config, used: RefCell::new(BTreeSet::new()) };
    refuse_unknown(format, &keys)?;
    let mut model = sizes(format, &keys)?;
    model.router = router(format, &keys)?;
    rotation(format, &keys, &mut model)?;
    dense_layers(format, &keys, &mut model)?;
    multi_token_prediction(format, &keys, &mut model, has_tensor)?;
    keys.mark(&["model_type", "torch_dtype", "dtype", "intermediate_size", "num_local_experts"]);
    let used = keys.used.into_inner();
    let rest = config
        .iter()
        .filter(|(key, _)| !used.contains(*key))
        .map(|(key, value)| (key.clone(), value.clone()));
    let rest = rest.collect();
    check_size(&model)?;
    model.check()?;
    Ok((model, rest))
}

/// Keys that change what the model computes in ways that Lingot cannot follow, with the values it can.
fn refuse_unknown(format: Format, keys: &Keys) -> Result<()> {
    let fixed = [
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("use_bias", json!(false)),
        ("use_qkv_bias", json!(false)),
        ("rope_scaling", Value::Null),
        ("rope_interleave", json!(false)),
        ("use_sliding_window", json!(false)),
        ("quantization_config", Value::Null),
        ("norm_softmax", json!(false)),
        ("decoder_sparse_step", json!(1)),
        ("score_function", json!("sigmoid")),
        ("scoring_func", json!("sigmoid")),
        ("moe_router_enable_expert_bias", json!(true)),
    ];
    for (key, wanted) in fixed {
        let value = keys.get(key);
        let plain_rotation = key == "rope_scaling" && is_plain_rotation(value);
        // The published Ling v1 class has biases unless told otherwise.
        let value = if key == "use_bias" && format.is_bailing() && value.is_null() {
            &Value::Bool(true)
        } else {
            value
        };
        if !value.is_null() && *value != wanted && !plain_rotation {
            return Err(unsupported(key, value, &format!("only {wanted} is supported")));
        }
        // Not marked as used where they say what Lingot's own default is: given back as they are.
    }
    Ok(())
}

/// Newer releases of `transformers` put theta itself under the scaling.
fn is_plain_rotation(value: &Value) -> bool {
    let kind = value.get("rope_type").or_else(|| value.get("type"));
    let changes =
        ["factor", "mrope_section"].iter().any(|key| value.get(key).is_some_and(|value| !value.is_null()));
    (value.is_null() || value.is_object()) && kind.is_none_or(|kind| kind == "default") && !changes
}

fn sizes(format: Format, keys: &Keys) -> Result<ModelSpec> {
    let heads = keys.size(&["num_attention_heads"], None)?;
    let width = keys.size(&["hidden_size"], None)?;
    let shared = match format {
        Format::Qwen3Moe => 0,
        Format::Glm4Moe => keys.size(&["n_shared_experts"], Some(1))?,
        _ => keys.size(&["num_shared_experts", "n_shared_experts"], Some(0))?,
    };
    let epsilon = if format == Format::Qwen3Moe { 1e-6 } else { 1e-5 };
    let expert_width = keys.size(&["moe_intermediate_size"], None)?;
    let shared_width = keys.size(&["moe_shared_expert_intermediate_size"], Some(expert_width))?;
    if shared_width != expert_width {
        return Err(unsupported(
            "moe_shared_expert_intermediate_size",
            &json!(shared_width),
            &format!("a shared expert is as wide as a routed one, {expert_width}"),
        ));
    }
    Ok(ModelSpec {
        vocabulary: keys.size(&["vocab_size"], None)?,
        width,
        layers: keys.size(&["num_hidden_layers"], None)?,
        heads,
        kv_heads: keys.size(&["num_key_value_heads"], Some(heads))?,
        head_width: keys.size(&["head_dim"], Some(width.checked_div(heads).unwrap_or(0)))?,
        experts: keys.size(&["num_experts", "num_local_experts", "n_routed_experts"], None)?,
        choices: keys.size(&["num_experts_per_tok"], None)?,
        expert_width,
        shared_experts: shared,
        qk_norm: match format {
            Format::Qwen3Moe => true,
            Format::BailingMoe => false,
            _ => keys.flag("use_qk_norm", false)?,
        },
        norm_epsilon: keys.number("rms_norm_eps", Some(epsilon))?,
        norm_head: format.is_bailing() && keys.flag("norm_head", false)?,
        tied: keys.flag("tie_word_embeddings", false)?,
        initial_deviation: keys.number("initializer_range", Some(0.02))?,
        mtp_layers: 0,
        ..published(format)
    })
}

/// The published model of that generation, for the values that only training knows.
fn published(format: Format) -> ModelSpec {
    let name = if format.is_sigmoid() { "ling-mini-2.0" } else { "ling-lite" };
    preset(name).expect("the published models are presets")
}

fn router(format: Format, keys: &Keys) -> Result<RouterSpec> {
    let like = published(format).router;
    if !format.is_sigmoid() {
        let renormalise = keys.flag("norm_topk_prob", format == Format::BailingMoe)?;
        return Ok(RouterSpec { renormalise: renormalise && !is_single_choice(format, keys)?, ..like });
    }
    let (groups, groups_kept, scale) = if format == Format::Glm4Moe { (1, 1, 1.0) } else { (8, 4, 2.5) };
    let renormalise = keys.flag("norm_topk_prob", true)?;
    Ok(RouterSpec {
        // Ling v2 does not look at the key.
        renormalise: if format == Format::BailingMoeV2 {
            !is_single_choice(format, keys)?
        } else {
            renormalise
        },
        scale: keys.number("routed_scaling_factor", Some(scale))?,
        groups: keys.size(&["n_group"], Some(groups))?,
        groups_kept: keys.size(&["topk_group"], Some(groups_kept))?,
        ..like
    })
}

/// Ling's classes leave the weight of a single choice as it is.
fn is_single_choice(format: Format, keys: &Keys) -> Result<bool> {
    Ok(format.is_bailing() && keys.size(&["num_experts_per_tok"], None)? == 1)
}

fn rotation(format: Format, keys: &Keys, model: &mut ModelSpec) -> Result<()> {
    let nested = keys.get("rope_parameters");
    if !nested.is_null() && !is_plain_rotation(nested) {
        return Err(unsupported("rope_parameters", nested, "only rope_type \"default\" is supported"));
    }
    keys.mark(&["rope_parameters", "rope_theta"]);
    let empty = Object::new();
    let nested = Keys { config: nested.as_object().unwrap_or(&empty), used: RefCell::default() };
    model.rope_theta = nested.number("rope_theta", Some(keys.number("rope_theta", Some(10_000.0))?))?;
    let partial = matches!(format, Format::Glm4Moe | Format::BailingMoeV2);
    model.rotary_width = model.head_width;
    if partial {
        let factor =
            nested.number("partial_rotary_factor", Some(keys.number("partial_rotary_factor", Some(0.5))?))?;
        if !(0.0..=1.0).contains(&factor) {
            return Err(unsupported("partial_rotary_factor", &json!(factor), "it lies between 0 and 1"));
        }
        model.rotary_width = (f64::from(model.head_width) * factor).trunc() as u32;
    }
    Ok(())
}

fn dense_layers(format: Format, keys: &Keys, model: &mut ModelSpec) -> Result<()> {
    model.dense_layers = match format {
        Format::Qwen3Moe => leading_layers(keys.get("mlp_only_layers"))?,
        Format::Glm4Moe => keys.size(&["first_k_dense_replace"], Some(1))?,
        _ => keys.size(&["first_k_dense_replace"], Some(0))?,
    };
    keys.mark(&["mlp_only_layers"]);
    // GLM-4 names its first dense layers even where it has fewer layers than that.
    model.dense_layers = model.dense_layers.min(model.layers);
    model.dense_width = if model.dense_layers == 0 { 0 } else { keys.size(&["intermediate_size"], None)? };
    Ok(())
}

fn leading_layers(list: &Value) -> Result<u32> {
    let mut layers: Vec<u64> = match list {
        Value::Null => Vec::new(),
        Value::Array(list) => list.iter().map(|layer| layer.as_u64().unwrap_or(u64::MAX)).collect(),
        _ => vec![u64::MAX],
    };
    layers.sort_unstable();
    layers.dedup();
    if layers.iter().enumerate().any(|(place, &layer)| layer != place as u64) {
        return Err(unsupported("mlp_only_layers", list, "the dense layers are the first ones: 0, 1, ..."));
    }
    Ok(layers.len() as u32)
}

fn multi_token_prediction(
    format: Format,
    keys: &Keys,
    model: &mut ModelSpec,
    has_tensor: impl Fn(&str) -> bool,
) -> Result<()> {
    if !matches!(format, Format::Glm4Moe | Format::BailingMoeV2) {
        return Ok(());
    }
    let said = keys.size(&["num_nextn_predict_layers", "num_mtp_layers"], Some(0))?;
    keys.mark(&["num_mtp_layers"]);
    if said > 1 {
        return Err(unsupported("num_nextn_predict_layers", &json!(said), "0 or 1 are supported"));
    }
    let is_mtp = |layer: u32| has_tensor(&format!("model.layers.{layer}.eh_proj.weight"));
    if format == Format::BailingMoeV2 {
        // One published class counts the layer among num_hidden_layers, the others after them.
        if said == 1 && !is_mtp(model.layers) && model.layers > 1 && is_mtp(model.layers - 1) {
            model.layers -= 1;
            model.dense_layers = model.dense_layers.min(model.layers);
        }
        model.mtp_layers = said;
        model.mtp_weight = keys.number("mtp_loss_scaling_factor", Some(model.mtp_weight))?;
    } else {
        // `transformers` writes the key without the layer, so the weights decide.
        model.mtp_layers = u32::from(is_mtp(model.layers));
    }
    if model.mtp_layers == 0 && !keys.has("mtp_loss_scaling_factor") {
        model.mtp_weight = 0.0;
    }
    Ok(())
}

/// Products of sizes stay far below 64 bits, so that no later sum of them can overflow.
fn check_size(model: &ModelSpec) -> Result<()> {
    let [v, d, h, c] = [model.vocabulary, model.width, model.heads, model.head_width].map(u128::from);
    let [e, f, shared, dense] =
        [model.experts, model.expert_width, model.shared_experts, model.dense_width].map(u128::from);
    let largest =
        [v * d, h * c * d, 2 * e * f * d, 2 * shared * f * d, 2 * dense * d].into_iter().max().unwrap_or(0);
    if largest > 1 << 44 || shared * f > 1 << 31 {
        return Err(Problem::new(
            format!(
                "config.json describes a tensor of {largest} numbers; at most {} are supported",
                1u64 << 44
            ),
            "the file is damaged",
        ));
    }
    Ok(())
}

fn unsupported(key: &str, value: &Value, why: &str) -> Problem {
    let mut shown = value.to_string();
    if shown.chars().count() > 200 {
        shown = shown.chars().take(200).collect::<String>() + "...";
    }
    Problem::new(
        format!("config.json has {key} = {shown}: {why}"),
        "Lingot cannot compute what this model computes",
    )
}

/// The keys of a config.json, noting which were looked at.
struct Keys<'a> {
    config: &'a Object,
    used: RefCell<BTreeSet<String>>,
}

impl Keys<'_> {
    /// The value, null when absent; does not count as used.
    fn get(&self, key: &str) -> &Value {
        self.config.get(key).unwrap_or(&Value::Null)
    }

    fn has(&self, key: &str) -> bool {
        !self.get(key).is_null()
    }

    fn mark(&self, keys: &[&str]) {
        self.used.borrow_mut().extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// A whole number under the first of the keys that is there.
    fn size(&self, keys: &[&str], default: Option<u32>) -> Result<u32> {
        self.mark(keys);
        let Some(key) = keys.iter().find(|key| self.has(key)) else {
            return default.ok_or_else(|| missing(keys[0]));
        };
        match self.get(key).as_u64() {
            Some(size) if size <= SIZE_MAX => Ok(size as u32),
            _ => Err(unsupported(
                key,
                self.get(key),
                &format!("a whole number of at most {SIZE_MAX} is expected"),
            )),
        }
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        self.mark(&[key]);
        if !self.has(key) {
            return default.ok_or_else(|| missing(key));
        }
        self.get(key).as_f64().ok_or_else(|| unsupported(key, self.get(key), "a number is expected"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.mark(&[key]);
        if !self.has(key) {
            return Ok(default);
        }
        self.get(key).as_bool().ok_or_else(|| unsupported(key, self.get(key), "true or false is expected"))
    }
}

fn missing(key: &str) -> Problem {
    Problem::new(format!("config.json has no {key}"), "fetch the config.json that belongs to these weights")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hugging_face::mutation::mutate;
    use crate::hugging_face::tokenizer::parse_object;

    fn tiny() -> ModelSpec {
        ModelSpec { mtp_layers: 1, head_width: 24, rotary_width: 22, ..preset("toy").unwrap() }
    }

    fn written(model: &ModelSpec, format: Format) -> Object {
        write(model, format, ElementType::Bf16, 64, &SpecialIds::default(), None)
    }

    #[test]
    fn a_written_config_is_read_back() {
        for format in [Format::Glm4Moe, Format::BailingMoeV2] {
            let (model, rest) = read(format, &written(&tiny(), format), |_| true).unwrap();
            let training_only = RouterSpec { ..tiny().router };
            assert_eq!(model, ModelSpec { router: training_only, ..tiny() });
            assert_eq!(rest["max_position_embeddings"], 64);
            assert!(!rest.contains_key("hidden_size"));
        }
    }

    #[test]
    fn the_rotary_factor_gives_back_the_width() {
        for head in (2..=256).step_by(2) {
            for rotary in (2..=head).step_by(2) {
                let model = ModelSpec { head_width: head, rotary_width: rotary, ..tiny() };
                assert_eq!(
                    (f64::from(head) * rotary_factor(&model)).trunc() as u32,
                    rotary,
                    "{rotary} of {head}"
                );
            }
        }
    }

    #[test]
    fn what_the_model_could_not_compute_is_refused_by_key() {
        for (key, value) in [
            ("hidden_act", json!("gelu")),
            ("use_bias", json!(true)),
            ("rope_scaling", json!({ "type": "yarn", "factor": 40.0 })),
            ("quantization_config", json!({ "quant_method": "fp8" })),
            ("num_nextn_predict_layers", json!(2)),
            ("partial_rotary_factor", json!(1.5)),
            ("hidden_size", json!("many")),
            ("hidden_size", json!(-1)),
            ("vocab_size", json!(1u64 << 40)),
            ("moe_shared_expert_intermediate_size", json!(1)),
            ("score_function", json!("softmax")),
        ] {
            let mut config = written(&tiny(), Format::BailingMoeV2);
            config.insert(key.into(), value);
            let error = read(Format::BailingMoeV2, &config, |_| true).unwrap_err();
            assert!(error.problem.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn mutated_configs_never_panic() {
        for format in Format::ALL {
            let text = Value::Object(written(&tiny(), format)).to_string();
            for seed in 0..1500 {
                if let Ok(config) = parse_object(&mutate(text.as_bytes(), seed)) {
                    let _ = read(format, &config, |_| seed % 2 == 0);
                }
            }
        }
    }
}
