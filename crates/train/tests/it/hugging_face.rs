//! Models of Hugging Face folders compute what `transformers` computes, and what they computed here.

use lingot_device::reference::Reference;
use lingot_device::{Device, Kind};
use lingot_formats::hugging_face::{ElementType, Experts, Format, Source, Target, Tensor, export, import};
use lingot_model::{Cache, Model};
use lingot_spec::model::ModelSpec;
use lingot_spec::presets::preset;
use lingot_spec::tensors::{buffers, tensors};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders that `transformers` wrote.
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

/// The expected numbers are what `transformers` made of these folders.
#[test]
fn an_imported_model_computes_what_transformers_computes() {
    for name in SAVED {
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

#[test]
fn a_folded_norm_head_gives_the_same_logits() {
    for tied in [false, true] {
        let model = ModelSpec { norm_head: true, tied, ..small() };
        let before = Model::new(&model, &Device::new(Reference::new()), Kind::F64, 5).unwrap();
        let floats = |name: &str| before.parameters.get(name).unwrap().to_floats().unwrap();
        let weights: Vec<Tensor> = tensors(&model)
            .into_iter()
            .map(|tensor| (tensor.name.clone(), tensor.shape, floats(&tensor.name)))
            .collect();
        let zeros = buffers(&model)
            .into_iter()
            .map(|buffer| (buffer.name, buffer.shape.clone(), vec![0.0; buffer.shape.iter().product()]))
            .collect::<Vec<Tensor>>();
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("model");
        let source = Source {
            model: &model,
            tensors: &weights,
            buffers: &zeros,
            tokenizer_folder: None,
            context_tokens: 64,
            kept: None,
        };
        let target = Target {
            folder: &folder,
            format: Format::BailingMoe,
            element_type: ElementType::F32,
            experts: Experts::Separate,
            max_shard_bytes: u64::MAX,
        };
        assert!(export(&source, &target).unwrap().norm_head_folded);
        let imported = import(&folder).unwrap();
        let [before, after] =
            [loaded(&model, &weights, &zeros), loaded(&imported.model, &imported.tensors, &imported.buffers)]
                .map(|model| next_logits(&model, &[3, 1, 4, 1, 5]));
        assert!(before.iter().zip(&after).all(|(before, after)| (before - after).abs() < 1e-5));
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

fn small() -> ModelSpec {
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

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
