//! A config.json as a model: every key that changes what the model computes is used or refused.

use super::habits::habits;
use super::keys::{Keys, Object};
use super::refusals::refuse_unknown;
use super::rotation::rotation;
use crate::abilities::{QkNorm, Renormalise};
use crate::hugging_face::format::Format;
use lingot_spec::model::{ModelSpec, RouterSpec};
use lingot_spec::presets::preset;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// The model of a config.json, and the keys that it does not use. `has_tensor` tells whether the weights have
/// a tensor.
pub(crate) fn read(
    format: Format,
    config: &Object,
    has_tensor: impl Fn(&str) -> bool,
) -> Result<(ModelSpec, Object)> {
    let keys = Keys::new(config);
    refuse_unknown(format, &keys)?;
    let mut model = sizes(format, &keys)?;
    model.router = router(format, &keys)?;
    rotation(format, &keys, &mut model)?;
    dense_layers(format, &keys, &mut model)?;
    multi_token_prediction(format, &keys, &mut model, has_tensor)?;
    keys.mark(&["model_type", "torch_dtype", "dtype", "intermediate_size"]);
    check_size(&model)?;
    model.check()?;
    Ok((model, keys.unused()))
}

fn sizes(format: Format, keys: &Keys) -> Result<ModelSpec> {
    let (habits, abilities) = (habits(format), format.abilities());
    let heads = keys.size(&["num_attention_heads"], None)?;
    let width = keys.size(&["hidden_size"], None)?;
    let expert_width = keys.size(&[habits.expert_width], habits.usual_expert_width)?;
    let shared_width = keys.size(&["moe_shared_expert_intermediate_size"], Some(expert_width))?;
    if shared_width != expert_width {
        return Err(keys.unsupported(
            "moe_shared_expert_intermediate_size",
            &format!("a shared expert is as wide as a routed one, {expert_width}"),
        ));
    }
    Ok(ModelSpec {
        vocabulary: keys.size(&["vocab_size"], None)?,
        width,
        layers: keys.size(&["num_hidden_layers"], None)?,
        heads,
        kv_heads: keys.size(&["num_key_value_heads"], Some(habits.kv_heads.unwrap_or(heads)))?,
        head_width: keys.size(&["head_dim"], Some(width.checked_div(heads).unwrap_or(0)))?,
        experts: keys.size(habits.experts, habits.usual_experts)?,
        choices: keys.size(&["num_experts_per_tok"], habits.usual_choices)?,
        expert_width,
        shared_experts: match habits.shared {
            [] => 0,
            spellings => keys.size(spellings, habits.usual_shared)?,
        },
        qk_norm: match abilities.qk_norm {
            QkNorm::Always | QkNorm::OverAllHeads => true,
            QkNorm::Never => false,
            QkNorm::Either => keys.flag("use_qk_norm", false)?,
        },
        norm_epsilon: keys.number("rms_norm_eps", Some(habits.epsilon))?,
        norm_head: format.is_bailing() && keys.flag("norm_head", false)?,
        tied: keys.flag("tie_word_embeddings", false)?,
        initial_deviation: keys.number("initializer_range", Some(0.02))?,
        mtp_layers: 0,
        ..published(format)
    })
}

/// The published model of that generation, for the values that matter to training alone.
fn published(format: Format) -> ModelSpec {
    let name = if format.is_sigmoid() { "ling-mini-2.0" } else { "ling-lite" };
    preset(name).expect("the published models are presets")
}

fn router(format: Format, keys: &Keys) -> Result<RouterSpec> {
    let (habits, abilities, like) = (habits(format), format.abilities(), published(format).router);
    let said = match abilities.renormalise {
        // Mixtral and Ling v2 do not look at the key.
        Renormalise::Always | Renormalise::AlwaysOfSeveral => true,
        _ => keys.flag("norm_topk_prob", habits.renormalise)?,
    };
    let renormalise = said && !is_single_choice(format, keys)?;
    if !format.is_sigmoid() {
        return Ok(RouterSpec { renormalise, ..like });
    }
    let (groups, groups_kept, scale) = habits.limits;
    Ok(RouterSpec {
        renormalise,
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

fn dense_layers(format: Format, keys: &Keys, model: &mut ModelSpec) -> Result<()> {
    model.dense_layers = match format {
        Format::Qwen3Moe => first_layers(keys, model.layers)?,
        _ if !format.abilities().has_dense => 0,
        _ => keys.size(&["first_k_dense_replace"], Some(habits(format).dense_layers))?,
    };
    // GLM-4 names its first dense layers even where it has fewer layers than that.
    model.dense_layers = model.dense_layers.min(model.layers);
    model.dense_width = if model.dense_layers == 0 { 0 } else { keys.size(&["intermediate_size"], None)? };
    Ok(())
}

/// How many of the first layers are dense: those in `mlp_only_layers`, and those that `decoder_sparse_step`
/// passes over. Errors if a dense layer comes after a layer of experts.
fn first_layers(keys: &Keys, layers: u32) -> Result<u32> {
    keys.mark(&["mlp_only_layers", "decoder_sparse_step"]);
    let step = keys.size(&["decoder_sparse_step"], Some(1))?;
    if step == 0 {
        return Err(keys.unsupported("decoder_sparse_step", "expected a whole number of at least 1"));
    }
    let wrong = || keys.unsupported("mlp_only_layers", "expected a list of layers, counted from 0");
    let named: BTreeSet<u64> = match keys.get("mlp_only_layers") {
        Value::Null => BTreeSet::new(),
        Value::Array(list) => {
            list.iter().map(|layer| layer.as_u64().ok_or_else(wrong)).collect::<Result<_>>()?
        }
        _ => return Err(wrong()),
    };
    let is_dense = |layer: u32| named.contains(&u64::from(layer)) || !(layer + 1).is_multiple_of(step);
    let first = (0..layers).find(|&layer| !is_dense(layer)).unwrap_or(layers);
    match (first..layers).find(|&layer| is_dense(layer)) {
        None => Ok(first),
        Some(layer) => {
            let key =
                if named.contains(&u64::from(layer)) { "mlp_only_layers" } else { "decoder_sparse_step" };
            let why = format!("layer {layer} is dense after layer {first}, which has experts");
            Err(keys.unsupported(key, &why))
        }
    }
}

fn multi_token_prediction(
    format: Format,
    keys: &Keys,
    model: &mut ModelSpec,
    has_tensor: impl Fn(&str) -> bool,
) -> Result<()> {
    if !format.abilities().has_mtp {
        model.mtp_weight = 0.0;
        return Ok(());
    }
    let said = keys.size(&["num_nextn_predict_layers", "num_mtp_layers"], Some(0))?;
    if said > 1 {
        return Err(keys.unsupported("num_nextn_predict_layers", "0 and 1 are supported"));
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
            "the file is damaged; fetch it again",
        )
        .of(ProblemKind::Damaged));
    }
    Ok(())
}
