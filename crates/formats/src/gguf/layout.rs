//! The tensors of a GGUF file, and the pieces of Lingot's tensors that each is made of.

use crate::abilities::Abilities;
use crate::weights::{Piece, piece};
use lingot_spec::model::ModelSpec;

/// One tensor of the file.
pub(super) struct Entry {
    pub(super) name: String,
    /// Sizes, the slowest dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) pieces: Vec<Piece>,
    /// Whether it is F32 whatever the type of the others, as llama.cpp's own converter stores it: norms,
    /// routers and selection biases.
    pub(super) is_precise: bool,
}

/// All tensors of the model in an architecture that can express it.
pub(super) fn layout(model: &ModelSpec, architecture: &Abilities) -> Vec<Entry> {
    let mut builder = Builder { entries: Vec::new(), model, name: architecture.name };
    let [v, d] = [model.vocabulary, model.width].map(|size| size as usize);
    builder.whole("embedding", "token_embd.weight", &[v, d]);
    for layer in 0..model.layers {
        builder.block(&format!("layers.{layer}"), layer, model.is_moe(layer));
    }
    builder.whole("final_norm", "output_norm.weight", &[d]);
    // Not every architecture takes a missing head for the embedding.
    if !model.tied || !["qwen3moe", "glm4moe", "llama"].contains(&architecture.name) {
        builder.whole(if model.tied { "embedding" } else { "head" }, "output.weight", &[v, d]);
    }
    if model.mtp_layers > 0 {
        builder.mtp();
    }
    builder.entries
}

struct Builder<'a> {
    entries: Vec<Entry>,
    model: &'a ModelSpec,
    /// The architecture's.
    name: &'static str,
}

impl Builder<'_> {
    fn block(&mut self, ours: &str, number: u32, is_moe: bool) {
        let d = self.model.width as usize;
        let theirs = |part: &str| format!("blk.{number}.{part}.weight");
        self.whole(&format!("{ours}.attention_norm"), &theirs("attn_norm"), &[d]);
        self.attention(ours, &theirs);
        let norm = if self.name == "glm4moe" { "post_attention_norm" } else { "ffn_norm" };
        self.whole(&format!("{ours}.mlp_norm"), &theirs(norm), &[d]);
        if !is_moe {
            let f = self.model.dense_width as usize;
            return self.feed_forward(&format!("{ours}.dense"), &theirs, "", f);
        }
        let e = self.model.experts as usize;
        self.whole(&format!("{ours}.router"), &theirs("ffn_gate_inp"), &[e, d]);
        self.mark_precise();
        if self.model.router.selection_bias || self.name == "glm4moe" {
            self.whole(&format!("{ours}.selection_bias"), &format!("blk.{number}.exp_probs_b.bias"), &[e]);
        }
        self.experts(ours, &theirs);
        if self.model.shared_width() > 0 {
            let f = self.model.shared_width() as usize;
            self.feed_forward(&format!("{ours}.shared"), &theirs, "_shexp", f);
        }
    }

    fn attention(&mut self, ours: &str, theirs: &dyn Fn(&str) -> String) {
        let [d, h, g, c] = [self.model.width, self.model.heads, self.model.kv_heads, self.model.head_width]
            .map(|size| size as usize);
        let [query, key, value] = ["query", "key", "value"].map(|part| format!("{ours}.{part}"));
        if self.name == "bailingmoe2" {
            let parts = [(&query, h), (&key, g), (&value, g)];
            let pieces = parts.map(|(part, heads)| piece(part, 0, heads * c * d));
            self.push(theirs("attn_qkv"), &[(h + 2 * g) * c, d], pieces.into());
        } else {
            self.rotated(&query, &theirs("attn_q"), h);
            self.rotated(&key, &theirs("attn_k"), g);
            self.whole(&value, &theirs("attn_v"), &[g * c, d]);
        }
        if self.model.qk_norm {
            self.whole(&format!("{ours}.query_norm"), &theirs("attn_q_norm"), &[c]);
            self.whole(&format!("{ours}.key_norm"), &theirs("attn_k_norm"), &[c]);
        }
        self.whole(&format!("{ours}.output"), &theirs("attn_output"), &[d, h * c]);
    }

    /// The projection to heads that are rotated. Two architectures rotate neighbours, where Lingot rotates
    /// the channels of the first half with those of the second: their rows alternate between the halves.
    fn rotated(&mut self, ours: &str, theirs: &str, heads: usize) {
        let [d, c] = [self.model.width as usize, self.model.head_width as usize];
        if !["bailingmoe", "llama"].contains(&self.name) {
            return self.whole(ours, theirs, &[heads * c, d]);
        }
        let rows = (0..heads).flat_map(|head| {
            let place = move |channel: usize| head * c + channel % 2 * (c / 2) + channel / 2;
            (0..c).map(place)
        });
        let pieces = rows.map(|row| piece(ours, row * d, d)).collect();
        self.push(theirs.into(), &[heads * c, d], pieces);
    }

    fn feed_forward(&mut self, ours: &str, theirs: &dyn Fn(&str) -> String, kind: &str, f: usize) {
        let d = self.model.width as usize;
        let gate_up = format!("{ours}_gate_up");
        self.push(theirs(&format!("ffn_gate{kind}")), &[f, d], vec![piece(&gate_up, 0, f * d)]);
        self.push(theirs(&format!("ffn_up{kind}")), &[f, d], vec![piece(&gate_up, f * d, f * d)]);
        self.whole(&format!("{ours}_down"), &theirs(&format!("ffn_down{kind}")), &[d, f]);
    }

    fn experts(&mut self, ours: &str, theirs: &dyn Fn(&str) -> String) {
        let [d, f, e] =
            [self.model.width, self.model.expert_width, self.model.experts].map(|size| size as usize);
        let gate_up = format!("{ours}.experts_gate_up");
        for (half, name) in ["ffn_gate_exps", "ffn_up_exps"].into_iter().enumerate() {
            let pieces = (0..e).map(|expert| piece(&gate_up, (2 * expert + half) * f * d, f * d));
            self.push(theirs(name), &[e, f, d], pieces.collect());
        }
        self.whole(&format!("{ours}.experts_down"), &theirs("ffn_down_exps"), &[e, d, f]);
    }

    /// The multi-token-prediction layer, which llama.cpp keeps and does not run.
    fn mtp(&mut self) {
        let (d, number) = (self.model.width as usize, self.model.layers);
        let theirs = |part: &str| format!("blk.{number}.{part}.weight");
        self.block("mtp", number, true);
        let rows = (0..d).flat_map(|row| {
            [piece("mtp.token_projection", row * d, d), piece("mtp.hidden_projection", row * d, d)]
        });
        self.push(theirs("nextn.eh_proj"), &[d, 2 * d], rows.collect());
        self.whole("mtp.token_norm", &theirs("nextn.enorm"), &[d]);
        self.whole("mtp.hidden_norm", &theirs("nextn.hnorm"), &[d]);
        let is_bailing = self.name == "bailingmoe2";
        let norm = if is_bailing { "layer_output_norm" } else { "nextn.shared_head_norm" };
        self.whole("mtp.final_norm", &theirs(norm), &[d]);
    }

    fn whole(&mut self, ours: &str, theirs: &str, shape: &[usize]) {
        self.push(theirs.into(), shape, vec![piece(ours, 0, shape.iter().product())]);
    }

    fn push(&mut self, name: String, shape: &[usize], pieces: Vec<Piece>) {
        self.entries.push(Entry { name, shape: shape.into(), pieces, is_precise: shape.len() == 1 });
    }

    fn mark_precise(&mut self) {
        if let Some(entry) = self.entries.last_mut() {
            entry.is_precise = true;
        }
    }
}
