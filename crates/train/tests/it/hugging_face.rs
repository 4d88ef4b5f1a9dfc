//! Models to Hugging Face folders and back.

use lingot_device::reference::Reference;
use lingot_device::{Device, Kind};
use lingot_formats::hugging_face::{
    ElementType, Exported, Format, Source, Target, Tensor, export, fitting, import,
};
use lingot_model::{Cache, Model};
use lingot_spec::model::{ModelSpec, RouterSpec};
use lingot_spec::presets::preset;
use lingot_spec::tensors::{buffers, tensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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

/// The expected numbers are what `transformers` made of these folders.
#[test]
fn an_imported_model_computes_what_transformers_computes() {
    for name in ["hf_qwen3_moe", "hf_glm4_moe"] {
        let imported = import(&golden(name)).unwrap();
        let model = loaded(&imported.model, &imported.tensors, &imported.buffers);
        let expected = json_of(&golden(name).join("expected.json"));
        let numbers = |key: &str| expected[key].as_array().unwrap().clone();
        let mut tokens: Vec<i32> =
            numbers("tokens").iter().map(|token| token.as_i64().unwrap() as i32).collect();
        let logits = numbers("last_logits");
        for (row, wanted) in logits.iter().enumerate() {
            let count = tokens.len() + row + 1 - logits.len();
            for (wanted, found) in
                wanted.as_array().unwrap().iter().zip(next_logits(&model, &tokens[..count]))
            {
                let wanted = wanted.as_f64().unwrap();
                assert!(
                    (wanted - f64::from(found)).abs() <= 1e-5 * wanted.abs().max(1.0),
                    "{name} {wanted} {found}"
                );
            }
        }
        for wanted in numbers("continuation") {
            let logits = next_logits(&model, &tokens);
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(json!(best), wanted, "{name}");
            tokens.push(best as i32);
        }
    }
}

/// On the device that computes everything in f64.
fn loaded(spec: &ModelSpec, tensors: &[Tensor], buffers: &[Tensor]) -> Model {
    let mut model = Model::blank(spec, &Device::new(Reference::new()), Kind::F64).unwrap();
    for (name, _, values) in tensors {
        model.parameters.get(name).unwrap().write_floats(values).unwrap();
    }
    let buffers: Vec<Vec<f32>> = buffers.iter().map(|buffer| buffer.2.clone()).collect();
    model.set_buffers(&buffers).unwrap();
    model
}

fn next_logits(model: &Model, tokens: &[i32]) -> Vec<f32> {
    model.read(&mut Cache::new(model, tokens.len()).unwrap(), tokens).unwrap()
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
        let [before, after] = [
            loaded(&model, &made.tensors, &made.buffers),
            loaded(&imported.model, &imported.tensors, &imported.buffers),
        ]
        .map(|model| next_logits(&model, &[3, 1, 4, 1, 5]));
        assert!(before.iter().zip(&after).all(|(before, after)| (before - after).abs() < 1e-5));
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
    let target =
        Target { folder: &folder, format, element_type: ElementType::F32, max_shard_bytes: u64::MAX };
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

#[test]
fn a_damaged_folder_is_refused_with_what_is_wrong() {
    let (format, model) = models().swap_remove(0);
    let made = Made::new(&model, ElementType::F32);
    let check = |damage: &dyn Fn(&Path), words: &[&str]| {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("m");
        made.export(&folder, format, ElementType::F32, 6000).unwrap();
        damage(&folder);
        let error = import(&folder).unwrap_err();
        assert!(words.iter().all(|word| error.problem.contains(word)), "{words:?}: {error}");
    };
    let shard = |folder: &Path, number: usize| {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        files.sort();
        files.remove(number)
    };
    let set = |folder: &Path, key: &str, value: Value| {
        let mut config = json_of(&folder.join("config.json"));
        config[key] = value;
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
    };
    check(&|folder| fs::remove_file(folder.join("config.json")).unwrap(), &["config.json is not there"]);
    check(&|folder| fs::write(folder.join("config.json"), "{").unwrap(), &["config.json", "not JSON"]);
    check(&|folder| set(folder, "model_type", json!("llama")), &["model_type is llama"]);
    check(&|folder| set(folder, "attention_bias", json!(true)), &["attention_bias = true"]);
    check(&|folder| set(folder, "vocab_size", json!(24)), &["[23, 16]", "[24, 16]"]);
    check(&|folder| set(folder, "num_hidden_layers", json!(2)), &["unexpected"]);
    check(&|folder| set(folder, "num_hidden_layers", json!(4)), &["missing", "model.layers.3."]);
    check(&|folder| set(folder, "num_hidden_layers", json!(9_000_000)), &["9000000 layers"]);
    check(&|folder| set(folder, "num_attention_heads", json!(3)), &["heads (3)", "kv_heads (2)"]);
    check(&|folder| fs::remove_file(shard(folder, 0)).unwrap(), &["model-00001-of-", "absent"]);
    check(&|folder| fs::remove_file(folder.join("model.safetensors.index.json")).unwrap(), &["neither"]);
    check(&|folder| fs::write(shard(folder, 0), "short").unwrap(), &["5 bytes"]);
    check(&|folder| assert!(fs::copy(shard(folder, 0), shard(folder, 1)).unwrap() > 0), &["two files"]);
    check(
        &|folder| {
            let bytes = fs::read(shard(folder, 0)).unwrap();
            fs::write(shard(folder, 0), &bytes[..bytes.len() - 4]).unwrap();
        },
        &["model-00001-of-"],
    );
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
fn the_extra_copies_of_glm_must_be_copies() {
    let made = Made::new(&v2(), ElementType::F32);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("m");
    made.export(&folder, Format::Glm4Moe, ElementType::F32, u64::MAX).unwrap();
    let mut tensors = contents(&folder);
    let copy = tensors.get_mut("model.layers.3.shared_head.head.weight").unwrap();
    copy.2[3] ^= 1;
    write_safetensors(&folder.join("model.safetensors"), &tensors);
    assert!(import(&folder).unwrap_err().problem.contains("shared_head.head.weight differs from head"));
    tensors.retain(|name, _| !name.contains("shared_head.head") && !name.contains("3.embed_tokens"));
    write_safetensors(&folder.join("model.safetensors"), &tensors);
    assert_eq!(import(&folder).unwrap().tensors, made.tensors);
}

/// A damaged folder is an error or another model, never a panic.
#[test]
fn damaged_bytes_anywhere_never_panic() {
    let (format, model) = models().swap_remove(1);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("m");
    Made::new(&model, ElementType::Bf16).export(&folder, format, ElementType::Bf16, 8000).unwrap();
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut refused = 0;
    for _ in 0..400 {
        let path = &files[draw(files.len())];
        let original = fs::read(path).unwrap();
        let mut bytes = original.clone();
        for _ in 0..1 + draw(3) {
            let at = draw(bytes.len().min(2000));
            match draw(4) {
                0 => bytes[at] ^= 1 << draw(8),
                1 => bytes[at] = b'0' + draw(10) as u8,
                2 => bytes.truncate(at.max(1)),
                _ => drop(bytes.remove(at)),
            }
        }
        fs::write(path, bytes).unwrap();
        refused += usize::from(import(&folder).is_err());
        fs::write(path, original).unwrap();
    }
    assert!(refused > 200, "{refused}");
    import(&folder).unwrap();
}

fn v1() -> ModelSpec {
    ModelSpec {
        vocabulary: 23,
        width: 16,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_width: 8,
        experts: 6,
        choices: 2,
        expert_width: 10,
        rotary_width: 8,
        norm_head: false,
        ..preset("ling-lite").unwrap()
    }
}

fn v2() -> ModelSpec {
    let published = preset("ling-mini-2.0").unwrap();
    ModelSpec {
        dense_layers: 1,
        dense_width: 12,
        shared_experts: 2,
        qk_norm: true,
        rotary_width: 4,
        router: RouterSpec { groups: 3, groups_kept: 2, ..published.router },
        mtp_layers: 1,
        mtp_weight: 0.1,
        ..v1()
    }
}

fn qwen() -> ModelSpec {
    ModelSpec { shared_experts: 0, qk_norm: true, dense_layers: 1, dense_width: 12, ..v1() }
}

fn models() -> Vec<(Format, ModelSpec)> {
    let renormalise = |renormalise| RouterSpec { renormalise, ..v1().router };
    let no_mtp = ModelSpec { mtp_layers: 0, mtp_weight: 0.0, ..v2() };
    vec![
        (Format::Qwen3Moe, qwen()),
        (Format::BailingMoeV2, v2()),
        (Format::Glm4Moe, v2()),
        (Format::BailingMoe, v1()),
        (
            Format::Qwen3Moe,
            ModelSpec { tied: true, dense_layers: 0, dense_width: 0, router: renormalise(false), ..qwen() },
        ),
        (Format::BailingMoe, ModelSpec { tied: true, shared_experts: 0, router: renormalise(false), ..v1() }),
        (Format::Glm4Moe, ModelSpec { qk_norm: false, tied: true, ..no_mtp.clone() }),
        (Format::Glm4Moe, ModelSpec { tied: true, ..v2() }),
        (Format::BailingMoeV2, ModelSpec { shared_experts: 0, dense_layers: 0, dense_width: 0, ..no_mtp }),
    ]
}

/// A model with numbers in it, all of which the element type can hold.
struct Made {
    model: ModelSpec,
    tensors: Vec<Tensor>,
    buffers: Vec<Tensor>,
}

impl Made {
    fn new(model: &ModelSpec, element_type: ElementType) -> Made {
        let mut counter = 0u32;
        let mut fill = |name: String, shape: Vec<usize>, is_buffer: bool| {
            let fine = is_buffer || element_type == ElementType::F32;
            let mut next = || {
                counter = counter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Seven bits and a sign fit every type.
                if fine {
                    (counter >> 8) as f32 / 8_388_608.0 - 1.0
                } else {
                    (counter >> 24) as f32 / 128.0 - 1.0
                }
            };
            let values = (0..shape.iter().product()).map(|_| next()).collect();
            (name, shape, values)
        };
        let weights =
            tensors(model).into_iter().map(|tensor| fill(tensor.name, tensor.shape, false)).collect();
        let buffers =
            buffers(model).into_iter().map(|buffer| fill(buffer.name, buffer.shape, true)).collect();
        Made { model: model.clone(), tensors: weights, buffers }
    }

    fn source(&self) -> Source<'_> {
        Source {
            model: &self.model,
            tensors: &self.tensors,
            buffers: &self.buffers,
            tokenizer_folder: None,
            context_tokens: 64,
            kept: None,
        }
    }

    fn export(
        &self,
        folder: &Path,
        format: Format,
        element_type: ElementType,
        max_shard_bytes: u64,
    ) -> lingot_spec::Result<Exported> {
        export(&self.source(), &Target { folder, format, element_type, max_shard_bytes })
    }

    fn values(&self, name: &str) -> &[f32] {
        &self.tensors.iter().find(|tensor| tensor.0 == name).unwrap().2
    }
}

/// Imports and exports as it came.
fn again(from: &Path, to: &Path, max_shard_bytes: u64) {
    let imported = import(from).unwrap();
    let source = Source {
        model: &imported.model,
        tensors: &imported.tensors,
        buffers: &imported.buffers,
        tokenizer_folder: imported.tokenizer.as_deref(),
        context_tokens: 1,
        kept: Some(&imported.kept),
    };
    let target =
        Target { folder: to, format: imported.format, element_type: imported.element_type, max_shard_bytes };
    export(&source, &target).unwrap();
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Element type, shape and bytes of every tensor of a folder, read without Lingot.
fn contents(folder: &Path) -> BTreeMap<String, (String, Value, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let (length, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let header: Value = serde_json::from_slice(header).unwrap();
        for (name, tensor) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
            let [start, end] = [0, 1].map(|place| tensor["data_offsets"][place].as_u64().unwrap() as usize);
            let element = tensor["dtype"].as_str().unwrap().to_owned();
            all.insert(name.clone(), (element, tensor["shape"].clone(), data[start..end].to_vec()));
        }
    }
    all
}

fn write_safetensors(path: &Path, tensors: &BTreeMap<String, (String, Value, Vec<u8>)>) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, (element, shape, bytes)) in tensors {
        let end = data.len() + bytes.len();
        header.insert(
            name.clone(),
            json!({ "dtype": element, "shape": shape, "data_offsets": [data.len(), end] }),
        );
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), &data].concat()).unwrap();
}
