//! Tests of config.json: written and read back, refused by key, damaged.

use super::keys::Object;
use super::rotation::rotary_factor;
use super::{read, write};
use crate::hugging_face::mutation::mutate;
use crate::hugging_face::tokenizer::SpecialIds;
use crate::hugging_face::tokenizer::parse_object;
use crate::hugging_face::{ElementType, Format};
use lingot_spec::model::{ModelSpec, RouterSpec};
use lingot_spec::presets::preset;
use serde_json::{Value, json};

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
