//! The tensors of a Hugging Face folder, and the pieces of Lingot's tensors that each is made of.
//!
//! Every tensor of every format is a sequence of contiguous pieces: a block of rows of a fused `gate_up`, one
//! expert of a stack, three matrices one after the other, or alternating rows of two matrices. So one list
//! serves both directions: export reads the pieces, import writes them.

use super::elements::ElementType;
use super::format::Format;
use crate::weights::{Piece, piece};
use lingot_spec::model::ModelSpec;
use serde::{Deserialize, Serialize};

/// One tensor on disk.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) pieces: Vec<Piece>,
    pub(super) kind: Kind,
}

/// What a tensor on disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Weight,
    /// Stored as F32 whatever the type of the weights.
    SelectionBias,
    /// A copy of another tensor, which a folder may leave out.
    Copy,
}

/// The element type that export chooses. Selection biases stay F32: in BF16 they could not take their small
/// steps.
pub(super) fn usual_element(kind: Kind, element: ElementType) -> ElementType {
    if kind == Kind::SelectionBias { ElementType::F32 } else { element }
}

/// How a folder stores the experts of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Experts {
    /// Three matrices for each expert, which `save_pretrained` writes and every engine reads.
    #[default]
    Separate,
    /// Two stacks of matrices, `gate_up_proj` `[E, 2F, D]` and `down_proj` `[E, D, F]`, as the modules of
    /// `transformers` 5 hold them and `save_pretrained(save_original_format=False)` writes them.
    Stacked,
}

/// The names of the parts that the formats name differently.
struct Dialect {
    embedding: &'static str,
    attention: &'static str,
    /// Query, key and value are one matrix.
    fused_query_key_value: bool,
    output: &'static str,
    query_norm: &'static str,
    key_norm: &'static str,
    /// The feed-forward part of a layer.
    mlp: &'static str,
    /// Gate, up and down projection of one of several experts.
    expert: [&'static str; 3],
    selection_bias: Option<&'static str>,
    mtp_final_norm: &'static str,
    /// The multi-token-prediction layer has copies of embedding and head.
    mtp_copies: bool,
}

fn dialect(format: Format, experts: Experts) -> Dialect {
    let common = Dialect {
        embedding: "embed_tokens",
        attention: "self_attn",
        fused_query_key_value: false,
        output: "o_proj",
        query_norm: "q_norm",
        key_norm: "k_norm",
        mlp: "mlp",
        expert: ["gate_proj", "up_proj", "down_proj"],
        selection_bias: None,
        mtp_final_norm: "shared_head.norm",
        mtp_copies: true,
    };
    let bailing = Dialect {
        embedding: "word_embeddings",
        attention: "attention",
        fused_query_key_value: true,
        output: "dense",
        query_norm: "query_layernorm",
        key_norm: "key_layernorm",
        mtp_final_norm: "final_layernorm",
        mtp_copies: false,
        ..common
    };
    match format {
        Format::Qwen3Moe | Format::Olmoe => common,
        // `transformers` renames these as it stacks them.
        Format::Mixtral if experts == Experts::Stacked => common,
        Format::Mixtral => Dialect { mlp: "block_sparse_moe", expert: ["w1", "w3", "w2"], ..common },
        Format::Glm4Moe | Format::Dots1 => {
            Dialect { selection_bias: Some("e_score_correction_bias"), ..common }
        }
        Format::BailingMoe => bailing,
        Format::BailingMoeV2 => Dialect { selection_bias: Some("expert_bias"), ..bailing },
    }
}

/// All tensors of the model in a format. Where the format has a selection bias, the model is assumed to have
/// one.
pub(super) fn layout(model: &ModelSpec, format: Format, experts: Experts) -> Vec<Entry> {
    let dialect = dialect(format, experts);
    let mut builder = Builder { entries: Vec::new(), model, dialect, experts };
    builder.whole(
        "embedding",
        &format!("model.{}.weight", builder.dialect.embedding),
        vocabulary_shape(model),
    );
    for layer in 0..model.layers {
        builder.block(&format!("layers.{layer}"), &format!("model.layers.{layer}"), model.is_moe(layer));
    }
    builder.whole("final_norm", "model.norm.weight", vec![model.width as usize]);
    let head = if model.tied { "embedding" } else { "head" };
    builder.whole(head, "lm_head.weight", vocabulary_shape(model));
    if model.tied {
        builder.mark_last_as_copy();
    }
    if model.mtp_layers > 0 {
        builder.mtp(&format!("model.layers.{}", model.layers), head);
    }
    builder.entries
}

fn vocabulary_shape(model: &ModelSpec) -> Vec<usize> {
    vec![model.vocabulary as usize, model.width as usize]
}

struct Builder<'a> {
    entries: Vec<Entry>,
    model: &'a ModelSpec,
    dialect: Dialect,
    experts: Experts,
}

impl Builder<'_> {
    fn block(&mut self, ours: &str, theirs: &str, is_moe: bool) {
        let model = self.model;
        let d = model.width as usize;
        self.whole(&format!("{ours}.attention_norm"), &format!("{theirs}.input_layernorm.weight"), vec![d]);
        self.attention(ours, &format!("{theirs}.{}", self.dialect.attention));
        self.whole(
            &format!("{ours}.mlp_norm"),
            &format!("{theirs}.post_attention_layernorm.weight"),
            vec![d],
        );
        let mlp = format!("{theirs}.{}", self.dialect.mlp);
        if !is_moe {
            return self.feed_forward(&format!("{ours}.dense"), &mlp, model.dense_width as usize);
        }
        let e = model.experts as usize;
        self.whole(&format!("{ours}.router"), &format!("{mlp}.gate.weight"), vec![e, d]);
        if let Some(bias) = self.dialect.selection_bias {
            self.whole(&format!("{ours}.selection_bias"), &format!("{mlp}.gate.{bias}"), vec![e]);
            self.mark_last(Kind::SelectionBias);
        }
        match self.experts {
            Experts::Separate => self.separate_experts(ours, &mlp),
            Experts::Stacked => self.stacked_experts(ours, &mlp),
        }
        if model.shared_width() > 0 {
            self.feed_forward(
                &format!("{ours}.shared"),
                &format!("{mlp}.shared_experts"),
                model.shared_width() as usize,
            );
        }
    }

    fn attention(&mut self, ours: &str, theirs: &str) {
        let [d, h, g, c] = [self.model.width, self.model.heads, self.model.kv_heads, self.model.head_width]
            .map(|size| size as usize);
        let parts = [("query", "q_proj", h * c), ("key", "k_proj", g * c), ("value", "v_proj", g * c)];
        if self.dialect.fused_query_key_value {
            let pieces = parts.map(|(part, _, rows)| piece(&format!("{ours}.{part}"), 0, rows * d)).into();
            self.push(format!("{theirs}.query_key_value.weight"), vec![(h + 2 * g) * c, d], pieces);
        } else {
            for (part, name, rows) in parts {
                self.whole(&format!("{ours}.{part}"), &format!("{theirs}.{name}.weight"), vec![rows, d]);
            }
        }
        if self.model.qk_norm {
            let [query_norm, key_norm] = [self.dialect.query_norm, self.dialect.key_norm];
            self.whole(&format!("{ours}.query_norm"), &format!("{theirs}.{query_norm}.weight"), vec![c]);
            self.whole(&format!("{ours}.key_norm"), &format!("{theirs}.{key_norm}.weight"), vec![c]);
        }
        let output = self.dialect.output;
        self.whole(&format!("{ours}.output"), &format!("{theirs}.{output}.weight"), vec![d, h * c]);
    }

    /// `<ours>_gate_up` is cut into the gate rows and the up rows.
    fn feed_forward(&mut self, ours: &str, theirs: &str, f: usize) {
        let d = self.model.width as usize;
        let gate_up = format!("{ours}_gate_up");
        self.push(format!("{theirs}.gate_proj.weight"), vec![f, d], vec![piece(&gate_up, 0, f * d)]);
        self.push(format!("{theirs}.up_proj.weight"), vec![f, d], vec![piece(&gate_up, f * d, f * d)]);
        self.whole(&format!("{ours}_down"), &format!("{theirs}.down_proj.weight"), vec![d, f]);
    }

    fn separate_experts(&mut self, ours: &str, mlp: &str) {
        let [d, f] = [self.model.width as usize, self.model.expert_width as usize];
        let gate_up = format!("{ours}.experts_gate_up");
        let down = format!("{ours}.experts_down");
        let [gate_name, up_name, down_name] = self.dialect.expert;
        for expert in 0..self.model.experts as usize {
            let theirs = format!("{mlp}.experts.{expert}");
            let start = expert * 2 * f * d;
            let name = format!("{theirs}.{gate_name}.weight");
            self.push(name, vec![f, d], vec![piece(&gate_up, start, f * d)]);
            self.push(
                format!("{theirs}.{up_name}.weight"),
                vec![f, d],
                vec![piece(&gate_up, start + f * d, f * d)],
            );
            self.push(
                format!("{theirs}.{down_name}.weight"),
                vec![d, f],
                vec![piece(&down, expert * d * f, d * f)],
            );
        }
    }

    fn stacked_experts(&mut self, ours: &str, mlp: &str) {
        let [d, f, e] =
            [self.model.width, self.model.expert_width, self.model.experts].map(|size| size as usize);
        self.whole(
            &format!("{ours}.experts_gate_up"),
            &format!("{mlp}.experts.gate_up_proj"),
            vec![e, 2 * f, d],
        );
        self.whole(&format!("{ours}.experts_down"), &format!("{mlp}.experts.down_proj"), vec![e, d, f]);
    }

    /// `eh_proj` multiplies the token's embedding and the hidden state side by side.
    fn mtp(&mut self, theirs: &str, head: &str) {
        let d = self.model.width as usize;
        self.whole("mtp.token_norm", &format!("{theirs}.enorm.weight"), vec![d]);
        self.whole("mtp.hidden_norm", &format!("{theirs}.hnorm.weight"), vec![d]);
        let rows = (0..d).flat_map(|row| {
            [piece("mtp.token_projection", row * d, d), piece("mtp.hidden_projection", row * d, d)]
        });
        self.push(format!("{theirs}.eh_proj.weight"), vec![d, 2 * d], rows.collect());
        self.block("mtp", theirs, true);
        let final_norm = self.dialect.mtp_final_norm;
        self.whole("mtp.final_norm", &format!("{theirs}.{final_norm}.weight"), vec![d]);
        if self.dialect.mtp_copies {
            for (ours, name) in [("embedding", "embed_tokens"), (head, "shared_head.head")] {
                self.whole(ours, &format!("{theirs}.{name}.weight"), vocabulary_shape(self.model));
                self.mark_last_as_copy();
            }
        }
    }

    fn whole(&mut self, ours: &str, theirs: &str, shape: Vec<usize>) {
        let length = shape.iter().product();
        self.push(theirs.into(), shape, vec![piece(ours, 0, length)]);
    }

    fn push(&mut self, name: String, shape: Vec<usize>, pieces: Vec<Piece>) {
        self.entries.push(Entry { name, shape, pieces, kind: Kind::Weight });
    }

    fn mark_last_as_copy(&mut self) {
        self.mark_last(Kind::Copy);
    }

    fn mark_last(&mut self, kind: Kind) {
        if let Some(entry) = self.entries.last_mut() {
            entry.kind = kind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lingot_spec::presets::preset;
    use lingot_spec::tensors::{buffers, tensors};
    use std::collections::BTreeMap;

    /// Every number of ours is in exactly one place on disk, copies aside.
    #[test]
    fn the_pieces_cover_every_tensor_once() {
        let model = ModelSpec { mtp_layers: 1, ..preset("toy").unwrap() };
        for format in [Format::Glm4Moe, Format::BailingMoeV2] {
            for experts in [Experts::Separate, Experts::Stacked] {
                let mut pieces: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
                for entry in layout(&model, format, experts) {
                    assert_eq!(
                        entry.shape.iter().product::<usize>(),
                        entry.pieces.iter().map(|piece| piece.length).sum::<usize>()
                    );
                    for piece in entry.pieces.into_iter().filter(|_| entry.kind != Kind::Copy) {
                        pieces.entry(piece.tensor).or_default().push((piece.start, piece.length));
                    }
                }
                let ours = tensors(&model).into_iter().map(|tensor| (tensor.name, tensor.shape));
                for (name, shape) in
                    ours.chain(buffers(&model).into_iter().map(|buffer| (buffer.name, buffer.shape)))
                {
                    let mut cuts = pieces.remove(&name).unwrap();
                    cuts.sort_unstable();
                    let end = cuts.iter().fold(0, |end, &(start, length)| {
                        assert_eq!(start, end, "{name}");
                        start + length
                    });
                    assert_eq!(end, shape.iter().product::<usize>(), "{name}");
                }
                assert!(pieces.is_empty(), "{:?}", pieces.keys());
            }
        }
    }
}
