//! Models to Hugging Face folders and back.

use super::made::{Made, again, contents, golden, json_of, models, v1, v2};
use lingot_formats::hugging_face::{ElementType, Experts, Format, Imported, Source, Target, export, import};
use lingot_spec::model::ModelSpec;
use serde_json::json;
use std::fs;
use std::path::Path;

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

/// The folders that `transformers` wrote: experts one by one, and stacked.
const SAVED: [&str; 8] = [
    "hf_qwen3_moe",
    "hf_glm4_moe",
    "hf_mixtral",
    "hf_mixtral_stacked",
    "hf_olmoe",
    "hf_dots1",
    "hf_dots1_stacked",
    "hf_qwen3_moe_stacked",
];

#[test]
fn import_then_export_gives_back_the_same_bytes() {
    for name in SAVED {
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
fn experts_are_stacked_and_taken_apart_in_every_format_of_transformers() {
    for (format, model) in models() {
        let made = Made::new(&model, ElementType::Bf16);
        let home = tempfile::tempdir().unwrap();
        let [separate, stacked, back] = ["separate", "stacked", "back"].map(|name| home.path().join(name));
        made.export(&separate, format, ElementType::Bf16, u64::MAX).unwrap();
        let write = |imported: &Imported, folder: &Path, experts: Experts| {
            let source = Source { kept: Some(&imported.kept), ..made.source() };
            let element_type = ElementType::Bf16;
            let target = Target { folder, format, element_type, experts, max_shard_bytes: 3000 };
            export(&source, &target).map(|_| ())
        };
        let imported = import(&separate).unwrap();
        let written = write(&imported, &stacked, Experts::Stacked);
        if matches!(format, Format::BailingMoe | Format::BailingMoeV2) {
            // Ling's published code reads experts one by one.
            assert!(written.unwrap_err().problem.contains("no stacked experts"));
            continue;
        }
        written.unwrap();
        let names = contents(&stacked);
        let per_expert = |name: &&String| name.contains(".experts.") && name.ends_with(".weight");
        assert_eq!(names.keys().filter(per_expert).count(), 0);
        let [width, inner] = [model.width, model.expert_width];
        let stack = format!("model.layers.{}.mlp.experts.gate_up_proj", model.dense_layers);
        assert_eq!(names[&stack].1, json!([model.experts, 2 * inner, width]), "{format}");
        let read = import(&stacked).unwrap();
        assert_eq!((&read.model, &read.tensors, &read.buffers), (&model, &made.tensors, &made.buffers));
        assert_eq!(read.kept.experts, Experts::Stacked);
        write(&read, &back, Experts::Separate).unwrap();
        assert_eq!(contents(&back), contents(&separate), "{format}");
    }
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
