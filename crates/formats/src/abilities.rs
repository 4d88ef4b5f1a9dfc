//! Which models each format can express. One table: export and import refuse by it, and
//! `lingot export --help` and docs/hugging-face.md show it.

use crate::hugging_face::Format;
use lingot_spec::model::{ModelSpec, Score};

/// What the models of a format may have. Selection biases come with sigmoid scores, zeros where the model has
/// none; NormHead is folded into the head by every format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    /// Name in messages: the `model_type` of config.json, or the architecture of a GGUF file.
    pub(crate) name: &'static str,
    pub(crate) score: Score,
    pub(crate) renormalise: Renormalise,
    /// Whether the weights of the experts may be scaled.
    pub(crate) scales: bool,
    /// Whether tokens may choose from the best groups of experts alone.
    pub(crate) limits_groups: bool,
    pub(crate) shared: Shared,
    /// Whether the first layers may be dense.
    pub(crate) has_dense: bool,
    pub(crate) qk_norm: QkNorm,
    /// Whether a part of each head may be rotated.
    pub(crate) rotates_part: bool,
    /// Whether there may be a multi-token-prediction layer.
    pub(crate) has_mtp: bool,
    /// Whether all heads together must be as wide as the model.
    pub(crate) is_square: bool,
}

/// Whether the weights of the chosen experts sum to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renormalise {
    Either,
    /// Either, but a single choice keeps its own weight.
    EitherOfSeveral,
    Always,
    /// Always, but a single choice keeps its own weight.
    AlwaysOfSeveral,
    Never,
}

/// How many shared experts there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    Any,
    AtLeastOne,
    No,
}

/// Whether query and key pass a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkNorm {
    Either,
    Always,
    Never,
    /// Always, over all heads at once: the norm of a head where there is one head.
    OverAllHeads,
}

/// A softmax router over plain layers.
const SOFTMAX: Abilities = Abilities {
    name: "",
    score: Score::Softmax,
    renormalise: Renormalise::Either,
    scales: false,
    limits_groups: false,
    shared: Shared::No,
    has_dense: false,
    qk_norm: QkNorm::Never,
    rotates_part: false,
    has_mtp: false,
    is_square: false,
};

/// The router of DeepSeek-V3 and Ling v2.
const SIGMOID: Abilities = Abilities {
    score: Score::Sigmoid,
    scales: true,
    limits_groups: true,
    shared: Shared::AtLeastOne,
    has_dense: true,
    qk_norm: QkNorm::Always,
    ..SOFTMAX
};

pub(crate) const QWEN3_MOE: Abilities =
    Abilities { name: "qwen3_moe", has_dense: true, qk_norm: QkNorm::Always, ..SOFTMAX };
pub(crate) const GLM4_MOE: Abilities =
    Abilities { name: "glm4_moe", qk_norm: QkNorm::Either, rotates_part: true, has_mtp: true, ..SIGMOID };
pub(crate) const BAILING_MOE: Abilities = Abilities {
    name: "bailing_moe",
    renormalise: Renormalise::EitherOfSeveral,
    shared: Shared::Any,
    has_dense: true,
    ..SOFTMAX
};
pub(crate) const BAILING_MOE_V2: Abilities = Abilities {
    name: "bailing_moe_v2",
    renormalise: Renormalise::AlwaysOfSeveral,
    shared: Shared::Any,
    ..GLM4_MOE
};
pub(crate) const MIXTRAL: Abilities =
    Abilities { name: "mixtral", renormalise: Renormalise::Always, ..SOFTMAX };
pub(crate) const OLMOE: Abilities =
    Abilities { name: "olmoe", qk_norm: QkNorm::OverAllHeads, is_square: true, ..SOFTMAX };
pub(crate) const DOTS1: Abilities = Abilities { name: "dots1", ..SIGMOID };

/// The architectures of GGUF files, in the order in which they are tried.
pub(crate) static GGUF: [Abilities; 7] = [
    Abilities { name: "qwen3moe", renormalise: Renormalise::Always, has_dense: false, ..QWEN3_MOE },
    Abilities {
        name: "bailingmoe",
        renormalise: Renormalise::Either,
        scales: true,
        shared: Shared::AtLeastOne,
        ..SOFTMAX
    },
    Abilities { name: "bailingmoe2", rotates_part: true, has_mtp: true, is_square: true, ..SIGMOID },
    Abilities { name: "dots1", ..SIGMOID },
    Abilities { name: "glm4moe", ..GLM4_MOE },
    Abilities { name: "llama", renormalise: Renormalise::Always, ..SOFTMAX },
    Abilities { name: "olmoe", renormalise: Renormalise::Never, ..OLMOE },
];

impl Abilities {
    /// The reasons why the format cannot express a model; none where it can. Each is a clause with its
    /// numbers.
    pub(crate) fn reasons(&self, model: &ModelSpec) -> Vec<String> {
        let all = [self.against_layers(model), self.against_attention(model), self.against_router(model)];
        all.concat()
    }

    fn against_layers(&self, model: &ModelSpec) -> Vec<String> {
        let name = self.name;
        let mut reasons = Vec::new();
        if model.moe_layers() == 0 {
            reasons.push(format!("{name} needs a Mixture-of-Experts layer, the model has none"));
        }
        if !self.has_dense && model.dense_layers > 0 {
            reasons.push(format!("{name} has no dense layers, the model has {}", model.dense_layers));
        }
        match self.shared {
            Shared::No if model.shared_experts > 0 => {
                reasons.push(format!("{name} has no shared experts, the model has {}", model.shared_experts));
            }
            Shared::AtLeastOne if model.shared_experts == 0 => {
                reasons.push(format!("{name} has at least one shared expert, the model has 0"));
            }
            _ => {}
        }
        if !self.has_mtp && model.mtp_layers > 0 {
            let count = model.mtp_layers;
            reasons.push(format!("{name} has no multi-token-prediction layer, the model has {count}"));
        }
        reasons
    }

    fn against_attention(&self, model: &ModelSpec) -> Vec<String> {
        let name = self.name;
        let [heads, kv_heads, head, width] = [model.heads, model.kv_heads, model.head_width, model.width];
        let mut reasons = Vec::new();
        if model.rotary_width == 0 {
            reasons.push(format!("{name} rotates at least one pair, rotary_width is 0"));
        }
        if !self.rotates_part && model.rotary_width != head {
            reasons.push(format!("{name} rotates whole heads of {head}, the model {}", model.rotary_width));
        }
        match self.qk_norm {
            QkNorm::Always | QkNorm::OverAllHeads if !model.qk_norm => {
                reasons.push(format!("{name} always normalises q and k, the model has qk_norm = false"));
            }
            QkNorm::Never if model.qk_norm => {
                reasons.push(format!("{name} does not normalise q and k, the model has qk_norm = true"));
            }
            QkNorm::OverAllHeads if heads > 1 || kv_heads > 1 => reasons.push(format!(
                "{name} normalises all heads of q and k together, the model each of its {heads} and \
                 {kv_heads} heads"
            )),
            _ => {}
        }
        if self.is_square && heads * head != width {
            reasons.push(format!(
                "{name} has heads that are together as wide as the model, here {heads} of {head} and {width}"
            ));
        }
        reasons
    }

    fn against_router(&self, model: &ModelSpec) -> Vec<String> {
        let (name, router, choices) = (self.name, &model.router, model.choices);
        let mut reasons = Vec::new();
        if router.score != self.score {
            let [theirs, ours] = [self.score, router.score].map(score_name);
            reasons.push(format!("{name} scores experts by {theirs}, the model by {ours}"));
        }
        if self.score == Score::Softmax && router.selection_bias {
            reasons.push(format!("{name} has no selection bias, the model has one"));
        }
        if !self.scales && router.scale != 1.0 {
            let scale = router.scale;
            reasons.push(format!("{name} does not scale the routed output, the model does by {scale}"));
        }
        if !self.limits_groups && router.groups_kept < router.groups {
            reasons.push(format!(
                "{name} does not limit routing by group, the model keeps {} of {}",
                router.groups_kept, router.groups
            ));
        }
        if self.limits_groups && model.experts < 2 * router.groups {
            reasons.push(format!(
                "{name} ranks groups by their two best experts, the model has {} experts in {} groups",
                model.experts, router.groups
            ));
        }
        let wanted = match self.renormalise {
            Renormalise::Either => None,
            Renormalise::EitherOfSeveral => (choices == 1).then_some(false),
            Renormalise::Always => Some(true),
            Renormalise::AlwaysOfSeveral => Some(choices > 1),
            Renormalise::Never => Some(false),
        };
        if let Some(wanted) = wanted.filter(|&wanted| wanted != router.renormalise) {
            let is_of_several = [Renormalise::EitherOfSeveral, Renormalise::AlwaysOfSeveral];
            let why = match is_of_several.contains(&self.renormalise) {
                true => ", since a single choice keeps its own weight",
                false => "",
            };
            reasons.push(format!(
                "{name} with {choices} choices has renormalise = {wanted}, the model {}{why}",
                router.renormalise
            ));
        }
        reasons
    }

    /// The cells of the table, after the name.
    fn cells(&self) -> [&'static str; 9] {
        let yes = |is: bool, yes, no| if is { yes } else { no };
        [
            score_name(self.score),
            match self.renormalise {
                Renormalise::Either => "any",
                Renormalise::EitherOfSeveral => "any, K > 1",
                Renormalise::Always => "on",
                Renormalise::AlwaysOfSeveral => "on, K > 1",
                Renormalise::Never => "off",
            },
            yes(self.scales, "any", "1"),
            yes(self.limits_groups, "any", "all"),
            match self.shared {
                Shared::Any => "any",
                Shared::AtLeastOne => "1 up",
                Shared::No => "0",
            },
            yes(self.has_dense, "any", "0"),
            match self.qk_norm {
                QkNorm::Either => "any",
                QkNorm::Always => "on",
                QkNorm::Never => "off",
                QkNorm::OverAllHeads => "1 head",
            },
            yes(self.rotates_part, "any", "whole"),
            yes(self.has_mtp, "0, 1", "0"),
        ]
    }
}

fn score_name(score: Score) -> &'static str {
    match score {
        Score::Softmax => "softmax",
        Score::Sigmoid => "sigmoid",
    }
}

/// The keys of a model that the columns of the table are about.
const COLUMNS: [&str; 9] =
    ["score", "renormalise", "scale", "groups", "shared", "dense", "qk_norm", "rotary", "mtp"];

/// Returns what each format can express, one line for each, under a line of headings: the Hugging Face
/// formats, then the architectures of GGUF files.
pub fn table() -> String {
    let row = |name: &str, cells: [&str; 9]| {
        let widths = [7, 11, 5, 6, 6, 5, 7, 6, 4];
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("  {cell:<width$}"));
        format!("{}\n", format!("  {name:<17}{}", cells.collect::<String>()).trim_end())
    };
    let hugging_face = Format::ALL.map(|format| *format.abilities());
    let mut text = row("format", COLUMNS);
    text.extend(hugging_face.iter().map(|abilities| row(abilities.name, abilities.cells())));
    text.extend(GGUF.iter().map(|abilities| row(&format!("gguf: {}", abilities.name), abilities.cells())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the guide holds the words of this one.
    #[test]
    fn the_guide_shows_the_same_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/hugging-face.md");
        let guide = std::fs::read_to_string(path).unwrap();
        assert!(guide.contains(&table()), "docs/hugging-face.md should hold\n{}", table());
    }
}
