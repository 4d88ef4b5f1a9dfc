//! Models to Hugging Face folders and back.

use super::made::{Made, again, contents, golden, json_of, models, qwen, v1, v2, write_safetensors};
use lingot_formats::hugging_face::{ElementType, Format, import};
use lingot_spec::model::ModelSpec;
use serde_json::json;
use std::fs;

#[test]
fn every_format_gives_the_model_back() {
    for (format, model) in models() {
        for (element_type, max_shard_bytes) in [(ElementType::F32, u64::MAX), (ElementType::Bf16, 3000)] {
            let made = Made::new(&model, element_type);
            let home = tempfile::tempdir().unwrap();
            let folder = home.path().join("model");
            let exported = made.export(&folder, format, element_type, max_shard_bytes).unwrap();
            assert_eq!(exported.files.len() > 1, max_shard_bytes == 3000);
            let imported = import(&folder).unwrap();
            assert_eq!((imported.format, imported.element_type), (format, element_type));
            assert_eq!(imported.model, model, "{format}");
            assert_eq!(imported.tensors, made.tensors, "{format}");
            assert_eq!(imported.buffers, made.buffers, "{format}");
        }
    }
}

#[test]
fn import_then_export_gives_back_the_same_bytes() {
    for name in ["hf_qwen3_moe", "hf_glm4_moe"] {
        let golden = golden(name);
        for max_shard_bytes in [4000, u64::MAX] {
            let home = tempfile::tempdir().unwrap();
            let folder = home.path().join("again");
            again(&golden, &folder, max_shard_bytes);
            assert_eq!(contents(&golden), contents(&folder), "{name}");
            let [before, after] = [&golden, &folder].map(|folder| json_of(&folder.join("config.json")));
            for (key, value) in before.as_object().unwrap() {
                assert_eq!(value, &after[key], "{name} {key}");
            }
            assert_eq!(
                json_of(&golden.join("generation_config.json")),
                json_of(&folder.join("generation_config.json"))
            );
        }
    }
}

#[test]
fn element_types_are_given_back_tensor_by_tensor() {
    for (format, model) in models() {
        for element_type in ElementType::ALL {
            let home = tempfile::tempdir().unwrap();
            let [first, second] = ["first", "second"].map(|name| home.path().join(name));
            Made::new(&model, element_type).export(&first, format, element_type, u64::MAX).unwrap();
            again(&first, &second, 2000);
            assert_eq!(contents(&first), contents(&second), "{format} {element_type}");
        }
    }
}

#[test]
fn stacked_experts_are_read_too() {
    let model = ModelSpec { dense_layers: 2, ..qwen() };
    let made = Made::new(&model, ElementType::F32);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("m");
    made.export(&folder, Format::Qwen3Moe, ElementType::F32, u64::MAX).unwrap();
    let mut tensors = contents(&folder);
    tensors.retain(|name, _| !name.contains("experts."));
    for (ours, theirs) in [("experts_gate_up", "gate_up_proj"), ("experts_down", "down_proj")] {
        let (_, shape, values) =
            made.tensors.iter().find(|tensor| tensor.0 == format!("layers.2.{ours}")).unwrap();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.insert(format!("model.layers.2.mlp.experts.{theirs}"), ("F32".into(), json!(shape), bytes));
    }
    write_safetensors(&folder.join("model.safetensors"), &tensors);
    assert_eq!(import(&folder).unwrap().tensors, made.tensors);
}

#[test]
fn both_ways_of_counting_the_extra_layer_of_ling_v2_are_read() {
    let made = Made::new(&v2(), ElementType::F32);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("m");
    made.export(&folder, Format::BailingMoeV2, ElementType::F32, u64::MAX).unwrap();
    let mut config = json_of(&folder.join("config.json"));
    config["num_hidden_layers"] = json!(4);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let imported = import(&folder).unwrap();
    assert_eq!((imported.model, imported.tensors), (v2(), made.tensors));
}

#[test]
fn norm_head_is_folded_into_a_head_of_its_own() {
    for tied in [false, true] {
        let model = ModelSpec { norm_head: true, tied, ..v1() };
        let made = Made::new(&model, ElementType::F32);
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("model");
        assert!(
            made.export(&folder, Format::BailingMoe, ElementType::F32, u64::MAX).unwrap().norm_head_folded
        );
        let imported = import(&folder).unwrap();
        assert_eq!(imported.model, v1());
        let width = model.width as usize;
        let before = made.values(if tied { "embedding" } else { "head" });
        let after = &imported.tensors.iter().find(|tensor| tensor.0 == "head").unwrap().2;
        for column in 0..width {
            let norm: f64 =
                before[column..].iter().step_by(width).map(|&value| f64::from(value).powi(2)).sum();
            for (before, after) in
                before[column..].iter().step_by(width).zip(after[column..].iter().step_by(width))
            {
                let wanted = f64::from(*before) / (norm.sqrt() + 1e-7);
                assert!((wanted - f64::from(*after)).abs() <= 1e-7 * wanted.abs());
            }
        }
    }
}
