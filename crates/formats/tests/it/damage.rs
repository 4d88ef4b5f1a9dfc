//! Folders that are damaged: an error that says what is wrong, never a panic.

use super::made::{Made, contents, json_of, models, v2, write_safetensors};
use lingot_formats::hugging_face::{ElementType, Format, import};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

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
    check(&|folder| assert!(fs::copy(shard(folder, 0), shard(folder, 1)).unwrap() > 0), &["does not hold"]);
    check(
        &|folder| {
            let bytes = fs::read(shard(folder, 0)).unwrap();
            fs::write(shard(folder, 0), &bytes[..bytes.len() - 4]).unwrap();
        },
        &["model-00001-of-"],
    );
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
