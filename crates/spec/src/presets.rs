//! Models with a name: toy sizes for a laptop, and the published Ling models.

use crate::model::{ModelSpec, RouterSpec, Score};

/// The names that [`preset`] knows, smallest model first.
pub const NAMES: &[&str] = &["toy", "toy-v1", "small", "medium", "ling-mini-2.0", "ling-lite", "ling-plus"];

/// Returns the model called `name`, if there is one.
pub fn preset(name: &str) -> Option<ModelSpec> {
    Some(match name {
        "toy" => toy(),
        "toy-v1" => ModelSpec {
            router: v1_router(),
            qk_norm: false,
            rotary_width: 32,
            dense_layers: 0,
            norm_head: true,
            mtp_layers: 0,
            ..toy()
        },
        "small" => small(),
        "medium" => medium(),
        "ling-lite" => ling_lite(),
        "ling-plus" => ling_plus(),
        "ling-mini-2.0" => ling_mini_2(),
        _ => return None,
    })
}

/// Softmax over all experts, renormalised, balance loss 0.015 and z-loss 1e-4 (arXiv 2503.05139, section
/// 3.4.1).
fn v1_router() -> RouterSpec {
    RouterSpec {
        score: Score::Softmax,
        renormalise: true,
        scale: 1.0,
        groups: 1,
        groups_kept: 1,
        selection_bias: false,
        bias_rate: 0.0,
        balance_loss: 0.015,
        balance_sequences: 1,
        z_loss: 1e-4,
        warmup_steps: 0,
    }
}

/// Sigmoid with a selection bias, no balance loss (arXiv 2510.22115, section 2, and its released scripts).
fn v2_router() -> RouterSpec {
    RouterSpec {
        score: Score::Sigmoid,
        scale: 2.5,
        selection_bias: true,
        bias_rate: 1e-3,
        balance_loss: 0.0,
        z_loss: 3.5e-6,
        ..v1_router()
    }
}

/// A small Ling v2, which learns Shakespeare within minutes on two cores.
fn toy() -> ModelSpec {
    ModelSpec {
        vocabulary: 2048,
        width: 128,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        head_width: 32,
        dense_layers: 1,
        dense_width: 384,
        experts: 16,
        choices: 2,
        expert_width: 96,
        shared_experts: 1,
        router: v2_router(),
        qk_norm: true,
        rotary_width: 16,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-6,
        norm_head: false,
        tied: false,
        mtp_layers: 0,
        mtp_weight: 0.1,
        initial_deviation: 0.02,
    }
}

/// The smaller model of the benchmarks.
fn small() -> ModelSpec {
    ModelSpec {
        vocabulary: 8192,
        width: 256,
        head_width: 64,
        rotary_width: 64,
        dense_layers: 0,
        dense_width: 0,
        expert_width: 256,
        router: v1_router(),
        qk_norm: false,
        ..toy()
    }
}

/// The larger model of the benchmarks.
fn medium() -> ModelSpec {
    ModelSpec {
        vocabulary: 16_384,
        width: 512,
        layers: 8,
        heads: 8,
        kv_heads: 2,
        experts: 32,
        choices: 4,
        expert_width: 512,
        ..small()
    }
}

/// Ling-Lite, 16.80 B parameters of which 2.753 B activated.
fn ling_lite() -> ModelSpec {
    ModelSpec {
        vocabulary: 126_464,
        width: 2048,
        layers: 28,
        heads: 16,
        kv_heads: 4,
        head_width: 128,
        dense_layers: 0,
        dense_width: 0,
        experts: 64,
        choices: 6,
        expert_width: 1408,
        shared_experts: 2,
        router: v1_router(),
        qk_norm: false,
        rotary_width: 128,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        norm_head: true,
        tied: false,
        mtp_layers: 0,
        mtp_weight: 0.0,
        initial_deviation: 0.006,
    }
}

/// Ling-Plus, 290.6 B parameters of which 29.0 B activated.
fn ling_plus() -> ModelSpec {
    ModelSpec {
        width: 5376,
        layers: 88,
        heads: 56,
        kv_heads: 8,
        head_width: 96,
        choices: 4,
        expert_width: 3072,
        shared_experts: 1,
        rotary_width: 96,
        norm_epsilon: 1e-6,
        ..ling_lite()
    }
}

/// Ling-mini-2.0, 16.256 B parameters of which 1.433 B activated.
fn ling_mini_2() -> ModelSpec {
    ModelSpec {
        vocabulary: 157_184,
        layers: 20,
        dense_layers: 1,
        dense_width: 5120,
        experts: 256,
        choices: 8,
        expert_width: 512,
        shared_experts: 1,
        router: RouterSpec { groups: 8, groups_kept: 4, ..v2_router() },
        qk_norm: true,
        rotary_width: 64,
        norm_epsilon: 1e-6,
        norm_head: false,
        mtp_layers: 1,
        mtp_weight: 0.1,
        ..ling_lite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn billions(parameters: u64) -> f64 {
        (parameters as f64 / 1e6).round() / 1e3
    }

    #[test]
    fn published_models_have_their_published_sizes() {
        for (name, total, activated) in
            [("ling-lite", 16.802, 2.753), ("ling-plus", 290.6, 29.0), ("ling-mini-2.0", 16.256, 1.433)]
        {
            let model = preset(name).unwrap();
            let digits = if name == "ling-plus" { 0.05 } else { 0.0005 };
            assert!((billions(model.parameters()) - total).abs() <= digits, "{name} {}", model.parameters());
            assert!(
                (billions(model.activated_parameters()) - activated).abs() <= digits,
                "{name} {}",
                model.activated_parameters()
            );
        }
    }

    #[test]
    fn every_preset_can_be_built() {
        for name in NAMES {
            preset(name).unwrap().check().unwrap();
        }
        assert!(preset("ling-giant").is_none());
    }
}
