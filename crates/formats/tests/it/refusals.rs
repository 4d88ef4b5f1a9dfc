//! What cannot be exported is refused with the reason, and nothing stays.

use super::made::{Made, dots1, json_of, mixtral, models, olmoe, v1, v2};
use lingot_formats::hugging_face::{ElementType, Experts, Format, Source, Target, export, fitting, import};
use lingot_spec::model::{ModelSpec, RouterSpec};
use lingot_spec::presets::preset;
use serde_json::json;
use std::fs;

#[test]
fn an_f16_number_out_of_reach_is_refused_and_nothing_stays() {
    let (format, model) = models().swap_remove(0);
    let mut made = Made::new(&model, ElementType::F32);
    made.tensors[0].2[0] = 1e6;
    let home = tempfile::tempdir().unwrap();
    let error = made.export(&home.path().join("model"), format, ElementType::F16, 3000).unwrap_err();
    assert!(error.problem.contains("1000000"), "{error}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn what_a_format_cannot_express_is_refused_with_the_reason() {
    let v2 = v2();
    let router = |router: RouterSpec| ModelSpec { router, ..v1() };
    let scaled = router(RouterSpec { scale: 2.0, ..v1().router });
    let grouped = router(RouterSpec { groups: 2, groups_kept: 1, ..v1().router });
    for (format, model, reason) in [
        (Format::Qwen3Moe, v1(), "shared experts"),
        (Format::Qwen3Moe, v1(), "qk_norm = false"),
        (Format::Qwen3Moe, v2.clone(), "softmax"),
        (Format::Qwen3Moe, v2.clone(), "multi-token"),
        (Format::Qwen3Moe, v2.clone(), "rotates whole heads of 8, the model 4"),
        (Format::BailingMoe, scaled, "by 2"),
        (Format::BailingMoe, grouped, "keeps 1 of 2"),
        (Format::BailingMoe, ModelSpec { qk_norm: true, ..v1() }, "qk_norm = true"),
        (Format::BailingMoe, ModelSpec { choices: 1, ..v1() }, "single choice"),
        (Format::Glm4Moe, v1(), "sigmoid"),
        (Format::Glm4Moe, ModelSpec { shared_experts: 0, ..v2.clone() }, "shared expert"),
        (Format::BailingMoeV2, ModelSpec { choices: 1, ..v2.clone() }, "1 choices"),
        (Format::BailingMoeV2, ModelSpec { dense_layers: 3, ..v2.clone() }, "Mixture-of-Experts layer"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let made = Made::new(&model, ElementType::F32);
        let error = made.export(&home.path().join("m"), format, ElementType::F32, u64::MAX).unwrap_err();
        assert!(error.problem.contains(reason), "{reason}: {error}");
        assert!(!fitting(&model).contains(&format));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
    for (format, model, reason) in [
        (Format::Mixtral, ModelSpec { dense_layers: 1, dense_width: 12, ..mixtral() }, "dense layers"),
        (Format::Mixtral, ModelSpec { qk_norm: true, ..mixtral() }, "qk_norm = true"),
        (Format::Mixtral, v1(), "shared experts"),
        (Format::Mixtral, router(RouterSpec { renormalise: false, ..v1().router }), "renormalise = true"),
        (Format::Olmoe, ModelSpec { qk_norm: true, ..mixtral() }, "each of its 4 and 2 heads"),
        (Format::Olmoe, mixtral(), "qk_norm = false"),
        (Format::Olmoe, ModelSpec { head_width: 8, rotary_width: 8, ..olmoe() }, "1 of 8 and 16"),
        (Format::Dots1, v2.clone(), "rotates whole heads of 8, the model 4"),
        (Format::Dots1, v2.clone(), "multi-token"),
        (Format::Dots1, ModelSpec { qk_norm: false, ..dots1() }, "qk_norm = false"),
        (Format::Dots1, ModelSpec { shared_experts: 0, ..dots1() }, "at least one shared expert"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let made = Made::new(&model, ElementType::F32);
        let error = made.export(&home.path().join("m"), format, ElementType::F32, u64::MAX).unwrap_err();
        assert!(error.problem.contains(reason), "{reason}: {error}");
    }
    assert_eq!(fitting(&v2), [Format::Glm4Moe, Format::BailingMoeV2]);
    assert_eq!(fitting(&preset("ling-mini-2.0").unwrap()), [Format::Glm4Moe, Format::BailingMoeV2]);
    assert_eq!(fitting(&preset("ling-plus").unwrap()), [Format::BailingMoe]);
}

#[test]
fn the_tokenizer_is_carried_along() {
    let (format, model) = models().swap_remove(0);
    let home = tempfile::tempdir().unwrap();
    let tokenizer = home.path().join("tokenizer");
    fs::create_dir(&tokenizer).unwrap();
    let write = |last: u32| {
        let vocabulary = json!({ "a": 0, "b": 1, "z": last });
        let added = json!([{ "id": 2, "content": "<|endoftext|>", "special": true }]);
        let text =
            json!({ "model": { "type": "BPE", "vocab": vocabulary }, "added_tokens": added }).to_string();
        fs::write(tokenizer.join("tokenizer.json"), text).unwrap();
    };
    let made = Made::new(&model, ElementType::F32);
    let source = Source { tokenizer_folder: Some(&tokenizer), ..made.source() };
    let folder = home.path().join("model");
    let target = Target {
        folder: &folder,
        format,
        element_type: ElementType::F32,
        experts: Experts::Separate,
        max_shard_bytes: u64::MAX,
    };
    write(model.vocabulary);
    let error = export(&source, &target).unwrap_err();
    assert!(error.problem.contains("24 tokens, the model's vocabulary is 23"), "{error}");
    assert!(!folder.exists());
    write(model.vocabulary - 1);
    export(&source, &target).unwrap();
    assert_eq!(json_of(&folder.join("config.json"))["eos_token_id"], 2);
    assert_eq!(json_of(&folder.join("generation_config.json"))["eos_token_id"], 2);
    assert_eq!(json_of(&folder.join("tokenizer_config.json"))["eos_token"], "<|endoftext|>");
    assert_eq!(json_of(&folder.join("special_tokens_map.json"))["eos_token"], "<|endoftext|>");
    assert_eq!(import(&folder).unwrap().tokenizer.as_deref(), Some(folder.as_path()));
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let (format, model) = models().swap_remove(0);
    let made = Made::new(&model, ElementType::F32);
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("thesis.tex"), "years of work").unwrap();
    let error = made.export(home.path(), format, ElementType::F32, u64::MAX).unwrap_err();
    assert!(error.problem.contains("not empty"), "{error}");
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    made.export(&empty, format, ElementType::F32, u64::MAX).unwrap();
}

#[test]
fn tensors_of_another_model_are_refused() {
    let (format, model) = models().swap_remove(0);
    let home = tempfile::tempdir().unwrap();
    let mut made = Made::new(&model, ElementType::F32);
    made.tensors[0].1[0] += 1;
    let error = made.export(&home.path().join("m"), format, ElementType::F32, u64::MAX).unwrap_err();
    assert!(error.problem.contains("[24, 16]") && error.problem.contains("[23, 16]"), "{error}");
    made.tensors.remove(0);
    let error = made.export(&home.path().join("m"), format, ElementType::F32, u64::MAX).unwrap_err();
    assert!(error.problem.contains("embedding is missing"), "{error}");
}
