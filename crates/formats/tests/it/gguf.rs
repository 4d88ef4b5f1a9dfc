//! GGUF files, read back by the specification and put together again.

use super::made::{Made, dots1, mixtral, olmoe, qwen, v1, v2};
use lingot_formats::gguf::{Exported, Target, export};
use lingot_formats::hugging_face::{ElementType, Source};
use lingot_spec::ProblemKind;
use lingot_spec::model::{ModelSpec, RouterSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A parsed file: the keys, and each tensor with its shape (slowest dimension first), type and bytes.
struct File {
    keys: BTreeMap<String, Value>,
    tensors: BTreeMap<String, (Vec<usize>, u32, Vec<u8>)>,
}

/// Reads a file as ggml's specification has it.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn count(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn text(&mut self) -> String {
        let length = self.count();
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => json!(u32::from_le_bytes(self.take())),
            5 => json!(i32::from_le_bytes(self.take())),
            6 => json!(f32::from_le_bytes(self.take())),
            7 => json!(self.take() == [1u8]),
            8 => json!(self.text()),
            9 => {
                let (of, count) = (u32::from_le_bytes(self.take()), self.count());
                (0..count).map(|_| self.value(of)).collect()
            }
            other => panic!("a value of type {other}"),
        }
    }
}

fn read(path: &Path) -> File {
    let bytes = fs::read(path).unwrap();
    let mut reader = Reader { bytes: &bytes, at: 0 };
    assert_eq!((&reader.take::<4>(), u32::from_le_bytes(reader.take())), (b"GGUF", 3));
    let (tensors, keys) = (reader.count(), reader.count());
    let keys = (0..keys).map(|_| {
        let key = reader.text();
        let kind = u32::from_le_bytes(reader.take());
        (key, reader.value(kind))
    });
    let keys = keys.collect();
    let mut places = Vec::new();
    for _ in 0..tensors {
        let name = reader.text();
        let dimensions = u32::from_le_bytes(reader.take());
        let mut shape: Vec<usize> = (0..dimensions).map(|_| reader.count()).collect();
        shape.reverse();
        places.push((name, shape, u32::from_le_bytes(reader.take()), reader.count()));
    }
    let data = reader.at.next_multiple_of(32);
    let tensors = places.into_iter().map(|(name, shape, kind, offset)| {
        assert!(offset.is_multiple_of(32), "{name} at {offset}");
        let length = shape.iter().product::<usize>() * if kind == 0 { 4 } else { 2 };
        let bytes = bytes[data + offset..data + offset + length].to_vec();
        (name, (shape, kind, bytes))
    });
    File { keys, tensors: tensors.collect() }
}

impl File {
    /// The numbers of an F32 tensor.
    fn floats(&self, name: &str) -> Vec<f32> {
        let (_, kind, bytes) = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(*kind, 0, "{name}");
        bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
    }

    /// Lingot's tensor of that name, put together again.
    fn ours(&self, model: &ModelSpec, name: &str) -> Vec<f32> {
        let [d, c, h, g] =
            [model.width, model.head_width, model.heads, model.kv_heads].map(|size| size as usize);
        let architecture = self.keys["general.architecture"].as_str().unwrap();
        let Some((layer, part)) = name.rsplit_once('.') else {
            return self.floats(match name {
                "embedding" => "token_embd.weight",
                "final_norm" => "output_norm.weight",
                _ => "output.weight",
            });
        };
        let number = layer.strip_prefix("layers.").map_or(model.layers.to_string(), str::to_owned);
        let get = |part: &str| self.floats(&format!("blk.{number}.{part}.weight"));
        let fused = |rows: std::ops::Range<usize>| get("attn_qkv")[rows.start * d..rows.end * d].to_vec();
        let halves = |numbers: Vec<f32>, half: usize| -> Vec<f32> {
            let rows = numbers.chunks_exact(2 * d).flat_map(|row| row[half * d..][..d].to_vec());
            rows.collect()
        };
        let heads = |part: &str, heads: usize| {
            let stored = get(part);
            if !["llama", "bailingmoe"].contains(&architecture) {
                return stored;
            }
            // Pairs of neighbours become pairs of halves.
            let row = |row: usize| {
                let (head, channel) = (row / c, row % c);
                let from = head * c + channel % (c / 2) * 2 + channel / (c / 2);
                stored[from * d..][..d].to_vec()
            };
            (0..heads * c).flat_map(row).collect()
        };
        let stacked = |kinds: [&str; 2]| -> Vec<f32> {
            let [gate, up] = kinds.map(get);
            let size = model.expert_width as usize * d;
            let pairs = gate.chunks_exact(size).zip(up.chunks_exact(size));
            pairs.flat_map(|(gate, up)| [gate, up].concat()).collect()
        };
        let is_fused = architecture == "bailingmoe2";
        match part {
            "attention_norm" => get("attn_norm"),
            "query" if is_fused => fused(0..h * c),
            "key" if is_fused => fused(h * c..(h + g) * c),
            "value" if is_fused => fused((h + g) * c..(h + 2 * g) * c),
            "query" => heads("attn_q", h),
            "key" => heads("attn_k", g),
            "value" => get("attn_v"),
            "query_norm" => get("attn_q_norm"),
            "key_norm" => get("attn_k_norm"),
            "output" => get("attn_output"),
            "mlp_norm" if architecture == "glm4moe" => get("post_attention_norm"),
            "mlp_norm" => get("ffn_norm"),
            "router" => get("ffn_gate_inp"),
            "dense_gate_up" => [get("ffn_gate"), get("ffn_up")].concat(),
            "dense_down" => get("ffn_down"),
            "experts_gate_up" => stacked(["ffn_gate_exps", "ffn_up_exps"]),
            "experts_down" => get("ffn_down_exps"),
            "shared_gate_up" => [get("ffn_gate_shexp"), get("ffn_up_shexp")].concat(),
            "shared_down" => get("ffn_down_shexp"),
            "selection_bias" => self.floats(&format!("blk.{number}.exp_probs_b.bias")),
            "token_norm" => get("nextn.enorm"),
            "hidden_norm" => get("nextn.hnorm"),
            "token_projection" => halves(get("nextn.eh_proj"), 0),
            "hidden_projection" => halves(get("nextn.eh_proj"), 1),
            "final_norm" if is_fused => get("layer_output_norm"),
            "final_norm" => get("nextn.shared_head_norm"),
            _ => panic!("no place for {name}"),
        }
    }
}

fn unnormed(model: ModelSpec) -> ModelSpec {
    ModelSpec { router: RouterSpec { renormalise: false, ..model.router.clone() }, ..model }
}

/// The architectures, each with a model that it can express.
fn models() -> Vec<(&'static str, ModelSpec)> {
    let flat = |model: ModelSpec| ModelSpec { dense_layers: 0, dense_width: 0, ..model };
    vec![
        ("qwen3moe", flat(qwen())),
        ("qwen3moe", ModelSpec { tied: true, ..flat(qwen()) }),
        ("bailingmoe", v1()),
        ("bailingmoe", ModelSpec { tied: true, ..unnormed(v1()) }),
        ("bailingmoe2", ModelSpec { head_width: 4, rotary_width: 4, ..v2() }),
        ("dots1", dots1()),
        ("glm4moe", v2()),
        ("glm4moe", ModelSpec { qk_norm: false, tied: true, ..unnormed(v2()) }),
        ("llama", mixtral()),
        ("olmoe", olmoe()),
    ]
}

fn written(made: &Made, file: &Path, element_type: ElementType) -> lingot_spec::Result<Exported> {
    export(&made.source(), &Target { file, element_type })
}

#[test]
fn every_architecture_holds_every_number_of_the_model() {
    for (architecture, model) in models() {
        let made = Made::new(&model, ElementType::F32);
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("model.gguf");
        let exported = written(&made, &path, ElementType::F32).unwrap();
        assert_eq!(exported.architecture, architecture, "{model:?}");
        let file = read(&path);
        assert_eq!(file.tensors.len(), exported.tensors);
        for (name, _, values) in made.tensors.iter().chain(&made.buffers) {
            assert_eq!(&file.ours(&model, name), values, "{architecture} {name}");
        }
        let key = |key: &str| file.keys[&format!("{architecture}.{key}")].clone();
        assert_eq!(key("block_count"), model.layers + model.mtp_layers);
        assert_eq!(key("rope.dimension_count"), model.rotary_width);
        assert_eq!(key("expert_used_count"), model.choices);
        assert_eq!(key("context_length"), 64);
        assert_eq!(file.keys["tokenizer.ggml.model"], "none");
    }
}

#[test]
fn halves_are_rounded_and_small_tensors_stay_precise() {
    let made = Made::new(&v2(), ElementType::Bf16);
    let home = tempfile::tempdir().unwrap();
    for (element_type, kind, file_type) in [(ElementType::Bf16, 30, 32), (ElementType::F16, 1, 1)] {
        let path = home.path().join(format!("{element_type}.gguf"));
        written(&made, &path, element_type).unwrap();
        let file = read(&path);
        assert_eq!(file.keys["general.file_type"], file_type);
        for (name, (shape, found, _)) in &file.tensors {
            let is_precise = shape.len() == 1 || name.contains("ffn_gate_inp");
            assert_eq!(*found, if is_precise { 0 } else { kind }, "{name}");
        }
        let (_, _, bytes) = &file.tensors["token_embd.weight"];
        let halves = bytes.as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two));
        for (half, value) in halves.zip(made.values("embedding")) {
            let read = match element_type {
                ElementType::Bf16 => f32::from_bits(u32::from(half) << 16),
                _ => half::f16::from_bits(half).to_f32(),
            };
            assert_eq!(read, *value);
        }
    }
}

#[test]
fn what_no_architecture_can_express_is_refused_and_nothing_stays() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.gguf");
    let refuse = |model: ModelSpec, word: &str| {
        let error = written(&Made::new(&model, ElementType::F32), &path, ElementType::F32).unwrap_err();
        assert!(error.problem.contains(word) && error.kind == ProblemKind::Input, "{error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    };
    refuse(ModelSpec { shared_experts: 0, ..v2() }, "at least one shared expert");
    refuse(unnormed(mixtral()), "nearest: bailingmoe has at least one shared expert");
    refuse(ModelSpec { qk_norm: true, ..v1() }, "nearest: qwen3moe has no shared experts");
    let mut made = Made::new(&v1(), ElementType::F32);
    made.tensors[0].2[0] = 1e6;
    let error = written(&made, &path, ElementType::F16).unwrap_err();
    assert!(error.problem.contains("token_embd.weight holds 1000000"), "{error}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    fs::write(&path, "years of work").unwrap();
    let error = written(&Made::new(&v1(), ElementType::F32), &path, ElementType::F32).unwrap_err();
    assert!(error.problem.contains("exists already"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"years of work");
}

const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

fn tokenizer() -> Value {
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
    let pattern = json!({ "Regex": WORDS });
    let split = json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false });
    json!({
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, bytes] },
        "model": { "type": "BPE", "vocab": { "a": 1, "b": 2, "ab": 3 }, "merges": [["a", "b"]] },
        "added_tokens": [
            { "id": 0, "content": "<|endoftext|>", "special": true },
            { "id": 4, "content": "<tab>", "special": false },
        ],
    })
}

#[test]
fn a_tokenizer_that_llama_cpp_knows_is_carried_along() {
    let made = Made::new(&v1(), ElementType::F32);
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.gguf");
    let try_it = |tokenizer: Value| {
        fs::write(home.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let _ = fs::remove_file(&path);
        let source = Source { tokenizer_folder: Some(home.path()), ..made.source() };
        export(&source, &Target { file: &path, element_type: ElementType::F32 })
    };
    try_it(tokenizer()).unwrap();
    let keys = read(&path).keys;
    assert_eq!(keys["tokenizer.ggml.model"], "gpt2");
    assert_eq!(keys["tokenizer.ggml.pre"], "qwen2");
    assert_eq!(keys["tokenizer.ggml.merges"], json!(["a b"]));
    assert_eq!(keys["tokenizer.ggml.eos_token_id"], 0);
    let tokens = keys["tokenizer.ggml.tokens"].as_array().unwrap();
    assert_eq!(tokens[..6], ["<|endoftext|>", "a", "b", "ab", "<tab>", "[PAD5]"].map(Value::from));
    assert_eq!(tokens.len(), 23);
    let kinds = keys["tokenizer.ggml.token_type"].as_array().unwrap();
    assert_eq!(kinds[..6], [3, 1, 1, 1, 4, 5].map(Value::from));
    for (change, word) in [
        (json!({ "pre_tokenizer": { "type": "Whitespace" } }), "found by Whitespace"),
        (json!({ "normalizer": { "type": "Lowercase" } }), "normalised by Lowercase"),
        (json!({ "model": { "type": "WordPiece", "vocab": {} } }), "WordPiece, not BPE"),
        (json!({ "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": true } }), "found by ByteLevel"),
    ] {
        let mut changed = tokenizer();
        changed.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = try_it(changed).unwrap_err();
        assert!(error.problem.contains(word) && error.hint.contains("Hugging Face"), "{error}");
        assert!(!path.exists());
    }
}
