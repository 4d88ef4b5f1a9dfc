//! Models with numbers in them, and folders read and written without Lingot.

use lingot_formats::hugging_face::{
    ElementType, Experts, Exported, Format, Source, Target, Tensor, export, import,
};
use lingot_spec::model::{ModelSpec, RouterSpec};
use lingot_spec::presets::preset;
use lingot_spec::tensors::{buffers, tensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn v1() -> ModelSpec {
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

pub(crate) fn v2() -> ModelSpec {
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

pub(crate) fn qwen() -> ModelSpec {
    ModelSpec { shared_experts: 0, qk_norm: true, dense_layers: 1, dense_width: 12, ..v1() }
}

pub(crate) fn mixtral() -> ModelSpec {
    ModelSpec { shared_experts: 0, ..v1() }
}

/// One head as wide as the model, so that the norm over all heads is that of a head.
pub(crate) fn olmoe() -> ModelSpec {
    ModelSpec {
        heads: 1,
        kv_heads: 1,
        head_width: 16,
        rotary_width: 16,
        qk_norm: true,
        router: RouterSpec { renormalise: false, ..v1().router },
        ..mixtral()
    }
}

pub(crate) fn dots1() -> ModelSpec {
    ModelSpec { rotary_width: 8, mtp_layers: 0, mtp_weight: 0.0, ..v2() }
}

pub(crate) fn models() -> Vec<(Format, ModelSpec)> {
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
        (Format::Mixtral, mixtral()),
        (Format::Mixtral, ModelSpec { tied: true, choices: 1, ..mixtral() }),
        (Format::Olmoe, olmoe()),
        (Format::Olmoe, ModelSpec { tied: true, router: renormalise(true), ..olmoe() }),
        (Format::Dots1, dots1()),
        (Format::Dots1, ModelSpec { tied: true, dense_layers: 0, dense_width: 0, ..dots1() }),
    ]
}

/// A model with numbers in it, all of which the element type can hold.
pub(crate) struct Made {
    pub(crate) model: ModelSpec,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) buffers: Vec<Tensor>,
}

impl Made {
    pub(crate) fn new(model: &ModelSpec, element_type: ElementType) -> Made {
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

    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            model: &self.model,
            tensors: &self.tensors,
            buffers: &self.buffers,
            tokenizer_folder: None,
            context_tokens: 64,
            kept: None,
        }
    }

    pub(crate) fn export(
        &self,
        folder: &Path,
        format: Format,
        element_type: ElementType,
        max_shard_bytes: u64,
    ) -> lingot_spec::Result<Exported> {
        let experts = Experts::Separate;
        export(&self.source(), &Target { folder, format, element_type, experts, max_shard_bytes })
    }

    pub(crate) fn values(&self, name: &str) -> &[f32] {
        &self.tensors.iter().find(|tensor| tensor.0 == name).unwrap().2
    }
}

/// Imports and exports as it came.
pub(crate) fn again(from: &Path, to: &Path, max_shard_bytes: u64) {
    let imported = import(from).unwrap();
    let source = Source {
        model: &imported.model,
        tensors: &imported.tensors,
        buffers: &imported.buffers,
        tokenizer_folder: imported.tokenizer.as_deref(),
        context_tokens: 1,
        kept: Some(&imported.kept),
    };
    let target = Target {
        folder: to,
        format: imported.format,
        element_type: imported.element_type,
        experts: imported.kept.experts,
        max_shard_bytes,
    };
    export(&source, &target).unwrap();
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

pub(crate) fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Element type, shape and bytes of every tensor of a folder, read without Lingot.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, (String, Value, Vec<u8>)> {
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

pub(crate) fn write_safetensors(path: &Path, tensors: &BTreeMap<String, (String, Value, Vec<u8>)>) {
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
