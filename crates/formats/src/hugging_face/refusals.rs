//! Which models a format can express, and the reasons against the others.

use super::format::Format;
use lingot_spec::model::{ModelSpec, Score};

/// The formats that can express the model.
pub fn fitting(model: &ModelSpec) -> Vec<Format> {
    Format::ALL.into_iter().filter(|&format| refusals(model, format).is_empty()).collect()
}

/// The reasons why a format cannot express a model; none when it can. Each is a clause with its numbers.
pub fn refusals(model: &ModelSpec, format: Format) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut refuse = |if_true: bool, reason: String| {
        if if_true {
            reasons.push(reason);
        }
    };
    refuse(model.moe_layers() == 0, format!("{format} needs a Mixture-of-Experts layer, the model has none"));
    refuse(model.rotary_width == 0, format!("{format} rotates at least one pair, rotary_width is 0"));
    match format {
        Format::Qwen3Moe => {
            refuse(
                !model.qk_norm,
                "qwen3_moe always normalises q and k, the model has qk_norm = false".into(),
            );
            refuse(
                model.shared_experts > 0,
                format!("qwen3_moe has no shared experts, the model has {}", model.shared_experts),
            );
        }
        Format::Glm4Moe => refuse(
            model.shared_experts == 0,
            "glm4_moe has at least one shared expert, the model has 0".into(),
        ),
        Format::BailingMoe => refuse(
            model.qk_norm,
            "bailing_moe does not normalise q and k, the model has qk_norm = true".into(),
        ),
        Format::BailingMoeV2 => {}
    }
    if format.is_sigmoid() {
        sigmoid(model, format, &mut refuse);
    } else {
        softmax(model, format, &mut refuse);
    }
    reasons
}

fn softmax(model: &ModelSpec, format: Format, refuse: &mut impl FnMut(bool, String)) {
    let router = &model.router;
    refuse(
        router.score != Score::Softmax,
        format!("{format} scores experts by softmax, the model by sigmoid"),
    );
    refuse(router.selection_bias, format!("{format} has no selection bias, the model has one"));
    refuse(
        router.scale != 1.0,
        format!("{format} does not scale the routed output, the model does by {}", router.scale),
    );
    refuse(
        router.groups_kept < router.groups,
        format!(
            "{format} does not limit routing by group, the model keeps {} of {}",
            router.groups_kept, router.groups
        ),
    );
    refuse(
        model.rotary_width != model.head_width,
        format!("{format} rotates whole heads of {}, the model {}", model.head_width, model.rotary_width),
    );
    refuse(
        model.mtp_layers > 0,
        format!("{format} has no multi-token-prediction layer, the model has {}", model.mtp_layers),
    );
    refuse(
        format == Format::BailingMoe && model.choices == 1 && router.renormalise,
        "bailing_moe does not renormalise the weight of a single choice, the model does".into(),
    );
}

fn sigmoid(model: &ModelSpec, format: Format, refuse: &mut impl FnMut(bool, String)) {
    let router = &model.router;
    refuse(
        router.score != Score::Sigmoid,
        format!("{format} scores experts by sigmoid, the model by softmax"),
    );
    refuse(
        model.experts < 2 * router.groups,
        format!(
            "{format} ranks groups by their two best experts, the model has {} experts in {} groups",
            model.experts, router.groups
        ),
    );
    // Ling v2 always renormalises, except that a single choice keeps its own score.
    let renormalises = model.choices > 1;
    refuse(
        format == Format::BailingMoeV2 && router.renormalise != renormalises,
        format!(
            "bailing_moe_v2 with {} choices has renormalise = {renormalises}, the model {}",
            model.choices, router.renormalise
        ),
    );
}
