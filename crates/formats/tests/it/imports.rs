//! What an import finds in a folder: it is used, said, or refused; never taken as it is.

use super::made::{Made, again, contents, json_of, models, qwen, write_safetensors};
use lingot_formats::hugging_face::{ElementType, Experts, Format, Source, Target, export, import};
use lingot_spec::ProblemKind;
use lingot_spec::model::ModelSpec;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of the first model, and the place it lies in.
fn folder(max_shard_bytes: u64) -> (tempfile::TempDir, PathBuf) {
    let (format, model) = models().swap_remove(0);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    Made::new(&model, ElementType::F32).export(&folder, format, ElementType::F32, max_shard_bytes).unwrap();
    (home, folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    files
}

#[test]
fn where_a_tensor_lies_in_several_files_the_index_decides() {
    let (_home, folder) = folder(3000);
    let whole = import(&folder).unwrap();
    let all = contents(&folder);
    let index = json_of(&folder.join("model.safetensors.index.json"));
    // Every file gets a wrong copy of every tensor that another file holds.
    for path in files(&folder) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let tensors = all.iter().map(|(tensor, (element, shape, bytes))| {
            let is_own = index["weight_map"][tensor] == name;
            let bytes = if is_own { bytes.clone() } else { vec![0x3f; bytes.len()] };
            (tensor.clone(), (element.clone(), shape.clone(), bytes))
        });
        write_safetensors(&path, &tensors.collect());
    }
    assert_eq!(import(&folder).unwrap(), whole);
    // A tensor that the index places in a file without it is missing, wherever else it lies.
    let first = files(&folder).swap_remove(0);
    let name = first.file_name().unwrap().to_str().unwrap().to_owned();
    let own = index["weight_map"].as_object().unwrap().iter().find(|(_, file)| **file == name).unwrap().0;
    let mut tensors = all.clone();
    tensors.remove(own);
    write_safetensors(&first, &tensors);
    let error = import(&folder).unwrap_err();
    assert!(error.problem.contains(own.as_str()) && error.kind == ProblemKind::Damaged, "{error}");
}

#[test]
fn an_index_without_any_of_its_files_is_passed_over_where_one_file_holds_all() {
    let (_home, folder) = folder(u64::MAX);
    let whole = import(&folder).unwrap();
    let index = json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(import(&folder).unwrap(), whole);
}

#[test]
fn numbers_that_are_not_finite_are_named_with_their_tensor() {
    for (element, bits) in [
        (ElementType::F32, f32::NAN.to_le_bytes().to_vec()),
        (ElementType::F32, f32::NEG_INFINITY.to_le_bytes().to_vec()),
        (ElementType::Bf16, 0x7f80_u16.to_le_bytes().to_vec()),
        (ElementType::F16, 0x7e00_u16.to_le_bytes().to_vec()),
    ] {
        for (format, model) in models() {
            let home = tempfile::tempdir().unwrap();
            let folder = home.path().join("m");
            Made::new(&model, element).export(&folder, format, element, u64::MAX).unwrap();
            let mut tensors = contents(&folder);
            let (name, tensor) =
                tensors.iter_mut().rfind(|(_, tensor)| tensor.0 == format!("{element}")).unwrap();
            let at = tensor.2.len() - 2 * bits.len();
            tensor.2[at..at + bits.len()].copy_from_slice(&bits);
            let name = name.clone();
            write_safetensors(&folder.join("model.safetensors"), &tensors);
            let error = import(&folder).unwrap_err();
            assert!(error.problem.contains(&name) && error.problem.contains("1 numbers"), "{error}");
        }
    }
}

#[test]
fn whole_numbers_beside_the_weights_are_left_out_and_said() {
    let (home, folder) = folder(u64::MAX);
    let whole = import(&folder).unwrap();
    let mut tensors = contents(&folder);
    for (name, element, bytes) in [
        ("model.position_ids", "I64", 16),
        ("model.layers.0.self_attn.mask", "BOOL", 2),
        ("model.layers.0.self_attn.rotary_emb.cos_cached", "F32", 8),
    ] {
        tensors.insert(name.into(), (element.into(), json!([2]), vec![0; bytes]));
    }
    write_safetensors(&folder.join("model.safetensors"), &tensors);
    let imported = import(&folder).unwrap();
    assert_eq!(imported.tensors, whole.tensors);
    assert!(
        imported.notes[0].contains("2 tensors") && imported.notes[0].contains("BOOL"),
        "{:?}",
        imported.notes
    );
    again(&folder, &home.path().join("again"), u64::MAX);
    // Weights of such a type are refused.
    let weight = tensors.get_mut("model.norm.weight").unwrap();
    (weight.0, weight.2) = ("I32".into(), vec![0; weight.2.len()]);
    write_safetensors(&folder.join("model.safetensors"), &tensors);
    let error = import(&folder).unwrap_err();
    assert!(error.problem.contains("model.norm.weight has element type I32"), "{error}");
    assert!(error.hint.contains("quantised"), "{error}");
}

#[test]
fn what_could_not_be_exported_again_is_refused() {
    let (_home, folder) = folder(u64::MAX);
    let check = |keys: Value, word: &str| {
        let before = fs::read(folder.join("config.json")).unwrap();
        let mut config = json_of(&folder.join("config.json"));
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let error = import(&folder).unwrap_err();
        assert!(error.problem.contains(word) && error.kind == ProblemKind::Input, "{keys}: {error}");
        fs::write(folder.join("config.json"), before).unwrap();
    };
    check(json!({ "mlp_only_layers": [0, 1, 2] }), "Mixture-of-Experts layer");
    check(json!({ "decoder_sparse_step": 9 }), "Mixture-of-Experts layer");
    check(json!({ "rope_parameters": { "rope_type": "default", "partial_rotary_factor": 0.0 } }), "partial");
}

#[test]
fn dense_layers_between_sparse_steps_are_read_where_they_come_first() {
    let model = ModelSpec { dense_layers: 2, ..qwen() };
    let made = Made::new(&model, ElementType::F32);
    let home = tempfile::tempdir().unwrap();
    let [folder, second] = ["m", "again"].map(|name| home.path().join(name));
    made.export(&folder, Format::Qwen3Moe, ElementType::F32, u64::MAX).unwrap();
    let mut config = json_of(&folder.join("config.json"));
    (config["mlp_only_layers"], config["decoder_sparse_step"]) = (json!([]), json!(3));
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    assert_eq!(import(&folder).unwrap().model, model);
    again(&folder, &second, u64::MAX);
    assert_eq!(import(&second).unwrap().model, model);
}

fn write_tokenizer(folder: &Path, highest: u32) {
    let special = |id: u32, content: &str| json!({ "id": id, "content": content, "special": true });
    let added = json!([special(2, "</s>"), special(5, "<x>")]);
    let vocabulary = json!({ "a": 0, "b": 1, "z": highest });
    let text = json!({ "model": { "type": "BPE", "vocab": vocabulary }, "added_tokens": added });
    fs::write(folder.join("tokenizer.json"), text.to_string()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused_unless_it_leads_into_the_folders_own_cache() {
    use std::os::unix::fs::symlink;
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        let (home, folder) = folder(u64::MAX);
        write_tokenizer(&folder, 4);
        let secret = home.path().join("secret");
        fs::write(&secret, "{\"password\": \"123\"}").unwrap();
        let _ = fs::remove_file(folder.join(name));
        symlink(&secret, folder.join(name)).unwrap();
        let error = import(&folder).unwrap_err();
        assert!(error.problem.contains(name) && error.problem.contains("outside"), "{error}");
        fs::remove_file(folder.join(name)).unwrap();
        // Inside the folder, and into the blobs of a download cache.
        fs::create_dir(folder.join("own")).unwrap();
        fs::write(folder.join("own/file"), "{\"model\": {}}").unwrap();
        symlink("own/file", folder.join(name)).unwrap();
        import(&folder).unwrap();
        let cache = home.path().join("models--x");
        fs::create_dir_all(cache.join("blobs")).unwrap();
        fs::create_dir(cache.join("snapshots")).unwrap();
        fs::rename(&folder, cache.join("snapshots/1")).unwrap();
        fs::write(cache.join("blobs/abc"), "{\"model\": {}}").unwrap();
        fs::remove_file(cache.join("snapshots/1").join(name)).unwrap();
        symlink("../../blobs/abc", cache.join("snapshots/1").join(name)).unwrap();
        import(&cache.join("snapshots/1")).unwrap();
    }
}

#[test]
fn a_tokenizer_beyond_the_embedding_is_said_and_exported_again() {
    let (home, folder) = folder(u64::MAX);
    write_tokenizer(&folder, 40);
    let imported = import(&folder).unwrap();
    assert!(
        imported.notes[0].contains("41 tokens") && imported.notes[0].contains("23"),
        "{:?}",
        imported.notes
    );
    let second = home.path().join("again");
    again(&folder, &second, u64::MAX);
    let [before, after] = [&folder, &second].map(|folder| fs::read(folder.join("tokenizer.json")).unwrap());
    assert_eq!(before, after);
}

#[test]
fn files_of_a_tokenizer_that_cannot_be_read_are_errors() {
    for name in
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
    {
        let (_home, folder) = folder(u64::MAX);
        write_tokenizer(&folder, 4);
        fs::write(folder.join(name), "{\"eos_token\": ").unwrap();
        let error = import(&folder).unwrap_err();
        assert!(error.problem.contains(name) && error.kind == ProblemKind::Damaged, "{error}");
    }
}

#[test]
fn the_end_of_a_text_is_what_transformers_takes() {
    // generation_config.json before config.json; one id or several.
    for (generation, config, expected) in [
        (json!([0, 17]), json!(3), vec![0, 17]),
        (Value::Null, json!([4, 2]), vec![4, 2]),
        (json!(5), json!([1]), vec![5]),
        (Value::Null, Value::Null, vec![]),
    ] {
        let (home, folder) = folder(u64::MAX);
        write_tokenizer(&folder, 4);
        for (name, ends) in [("generation_config.json", &generation), ("config.json", &config)] {
            let mut object = json_of(&folder.join(name));
            object["eos_token_id"] = ends.clone();
            fs::write(folder.join(name), object.to_string()).unwrap();
        }
        let imported = import(&folder).unwrap();
        assert_eq!(imported.kept.ends(), expected);
        if !expected.is_empty() {
            let second = home.path().join("again");
            again(&folder, &second, u64::MAX);
            assert_eq!(import(&second).unwrap().kept.ends(), expected);
            assert_eq!(json_of(&second.join("config.json"))["eos_token_id"] == config, config != Value::Null);
        }
    }
    // Without a generation_config.json, the one that is made says what config.json says.
    let (home, folder) = folder(u64::MAX);
    write_tokenizer(&folder, 4);
    fs::remove_file(folder.join("generation_config.json")).unwrap();
    let mut config = json_of(&folder.join("config.json"));
    config["eos_token_id"] = json!([5, 2]);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    again(&folder, &home.path().join("again"), u64::MAX);
    assert_eq!(json_of(&home.path().join("again/generation_config.json"))["eos_token_id"], json!([5, 2]));
}

#[test]
fn the_special_tokens_are_those_of_the_file_that_transformers_takes() {
    let (format, model) = models().swap_remove(0);
    let made = Made::new(&model, ElementType::F32);
    let listed = json!({ "2": { "content": "</s>", "special": true } });
    for (map, config, expected) in [
        (json!({ "eos_token": "<x>" }), json!({}), 5),
        (json!({ "eos_token": "<x>" }), json!({ "eos_token": "</s>" }), 5),
        (json!({ "eos_token": "<x>" }), json!({ "eos_token": "</s>", "added_tokens_decoder": listed }), 2),
        (json!({}), json!({ "eos_token": { "content": "<x>" } }), 5),
        (json!({ "eos_token": null }), json!({ "eos_token": "<x>" }), 5),
        (json!({}), json!({}), 2),
    ] {
        let home = tempfile::tempdir().unwrap();
        write_tokenizer(home.path(), 4);
        fs::write(home.path().join("special_tokens_map.json"), map.to_string()).unwrap();
        fs::write(home.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let source = Source { tokenizer_folder: Some(home.path()), ..made.source() };
        let folder = home.path().join("m");
        let target = Target {
            folder: &folder,
            format,
            element_type: ElementType::F32,
            experts: Experts::Separate,
            max_shard_bytes: u64::MAX,
        };
        export(&source, &target).unwrap();
        assert_eq!(json_of(&folder.join("config.json"))["eos_token_id"], expected, "{map} {config}");
    }
}

#[test]
fn configurations_may_be_what_python_writes() {
    let (home, folder) = folder(u64::MAX);
    for name in ["config.json", "generation_config.json"] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let text = text.replacen('{', "\u{feff}{ \"a\": NaN, \"b\": [-Infinity],", 1);
        fs::write(folder.join(name), text).unwrap();
    }
    again(&folder, &home.path().join("again"), u64::MAX);
    for name in ["config.json", "generation_config.json"] {
        let object = json_of(&home.path().join("again").join(name));
        // The spelling of newer releases of `transformers`.
        assert_eq!(object["a"], json!({ "__float__": "NaN" }));
        assert_eq!(object["b"], json!([{ "__float__": "-Infinity" }]));
    }
}

#[test]
fn multi_head_latent_attention_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    for (keys, words) in [
        (json!({ "model_type": "deepseek_v3", "kv_lora_rank": 512 }), ["deepseek_v3", "rank 512"]),
        (json!({ "model_type": "deepseek_v3" }), ["deepseek_v3", "latent attention"]),
        (json!({ "model_type": "kimi_k2", "kv_lora_rank": 16 }), ["kimi_k2", "kv_lora_rank"]),
    ] {
        fs::write(home.path().join("config.json"), keys.to_string()).unwrap();
        let error = import(home.path()).unwrap_err();
        assert!(words.iter().all(|word| error.problem.contains(word)), "{error}");
        assert!(error.hint.contains("dots1") && error.kind == ProblemKind::Input, "{error}");
    }
}
