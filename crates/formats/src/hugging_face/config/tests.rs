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

/// The variants and what `transformers` makes of them come from scripts/reference/make_config_variants.py.
#[test]
fn every_spelling_is_read_as_transformers_reads_it_or_refused() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/hf_config_variants.json");
    let variants: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut read_alike = 0;
    for variant in &variants {
        let config = variant["config"].as_object().unwrap();
        let format = Format::from_name(config["model_type"].as_str().unwrap()).unwrap();
        match read(format, config, |_| false) {
            Ok((model, _)) => {
                assert_eq!(facts(&model), variant["reading"], "{config:?}");
                read_alike += 1;
            }
            Err(error) => assert!(variant["may_refuse"] == true, "{error}: {config:?}"),
        }
    }
    assert!(variants.len() >= 440 && read_alike >= 150, "{read_alike} of {}", variants.len());
}

/// What a model computes, in the words of the variants.
fn facts(model: &ModelSpec) -> Value {
    json!({
        "vocabulary": model.vocabulary, "width": model.width, "layers": model.layers, "heads": model.heads,
        "kv_heads": model.kv_heads, "head_width": model.head_width, "experts": model.experts,
        "choices": model.choices, "expert_width": model.expert_width, "shared_experts": model.shared_experts,
        "dense_layers": model.dense_layers, "dense_width": model.dense_width, "rope_theta": model.rope_theta,
        "rotary_width": model.rotary_width, "norm_epsilon": model.norm_epsilon, "tied": model.tied,
        "qk_norm": model.qk_norm, "renormalise": model.router.renormalise, "scale": model.router.scale,
        "groups": model.router.groups, "groups_kept": model.router.groups_kept,
    })
}

#[test]
fn the_rotation_lies_beside_or_inside_and_disagreeing_spellings_are_refused() {
    let base = |format| {
        let mut config = written(&tiny(), format);
        for key in ["rope_theta", "rope_parameters", "rope_scaling"] {
            config.remove(key);
        }
        config
    };
    let theta = |format: Format, keys: Value| {
        let mut config = base(format);
        config.extend(keys.as_object().unwrap().clone());
        read(format, &config, |_| true).map(|(model, _)| model.rope_theta)
    };
    for format in [Format::Glm4Moe, Format::BailingMoeV2] {
        for (keys, expected) in [
            (json!({}), 1e4),
            (json!({ "rope_theta": 5e5 }), 5e5),
            (json!({ "rope_scaling": { "rope_type": "default", "rope_theta": 1e6 } }), 1e6),
            (json!({ "rope_scaling": { "type": "default" }, "rope_theta": 2e6 }), 2e6),
            (json!({ "rope_parameters": { "rope_theta": 1e6 }, "rope_scaling": {} }), 1e6),
            (json!({ "rope_parameters": { "rope_theta": 1e6 }, "rope_scaling": { "rope_theta": 3e6 } }), 3e6),
        ] {
            assert_eq!(theta(format, keys.clone()).unwrap(), expected, "{format} {keys}");
        }
        for keys in [
            json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } }),
            json!({ "rope_scaling": { "type": "default", "factor": 4.0 } }),
            json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e6 } } }),
            json!({ "rope_parameters": { "rope_theta": "1e6" } }),
            json!({ "rope_theta": { "__float__": "Infinity" } }),
            json!({ "rope_scaling": 4 }),
        ] {
            let error = theta(format, keys.clone()).unwrap_err();
            assert!(error.problem.contains("rope_"), "{keys}: {error}");
        }
    }
    let both = json!({ "rope_theta": 1e4, "rope_scaling": { "rope_theta": 1e6 } });
    assert_eq!(theta(Format::Glm4Moe, both.clone()).unwrap(), 1e6);
    assert!(theta(Format::BailingMoeV2, both).unwrap_err().problem.contains("names the same thing"));
    let mut config = base(Format::Glm4Moe);
    config.insert("num_local_experts".into(), json!(tiny().experts + 1));
    assert!(read(Format::Glm4Moe, &config, |_| true).unwrap_err().problem.contains("num_local_experts"));
}

#[test]
fn the_first_layers_may_be_dense_in_any_words() {
    let dense = |step: u32, named: Value| {
        let model = ModelSpec { layers: 4, dense_layers: 0, ..preset("toy-v1").unwrap() };
        let mut config = written(&ModelSpec { qk_norm: true, shared_experts: 0, ..model }, Format::Qwen3Moe);
        config.extend([("decoder_sparse_step".into(), json!(step)), ("mlp_only_layers".into(), named)]);
        read(Format::Qwen3Moe, &config, |_| true).map(|(model, _)| model.dense_layers)
    };
    for (step, named, expected) in [
        (1, json!([]), 0),
        (1, json!([1, 0]), 2),
        (1, json!([0, 9]), 1),
        (3, json!([3]), 2),
        (4, Value::Null, 3),
    ] {
        match dense(step, named.clone()) {
            Ok(found) => assert_eq!(found, expected, "{step} {named}"),
            Err(error) => assert!(named == json!([3]) && error.problem.contains("layer 3"), "{error}"),
        }
    }
    for (step, named) in [(2, json!([])), (1, json!([1])), (0, json!([])), (1, json!(["0"])), (1, json!(3))] {
        let error = dense(step, named.clone()).unwrap_err();
        assert!(error.problem.contains("decoder_sparse_step") || error.problem.contains("mlp_only_layers"));
    }
}
