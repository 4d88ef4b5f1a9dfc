//! The named tensors of a model, in one fixed order that checkpoints, optimizer and Hugging Face export
//! follow.

use crate::model::ModelSpec;
use std::ops::Range;

/// The role of a tensor, which decides its initial values and whether it decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A matrix, or a stack of one per expert: normal initial values, weight decay.
    Matrix,
    /// The scale of an RMSNorm: ones, no decay.
    Norm,
}

/// One trained tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, as in [`tensors`].
    pub name: String,
    /// Dimensions, outermost first; matrices are `[out, in]`.
    pub shape: Vec<usize>,
    /// Initial values and decay.
    pub role: Role,
}

impl TensorSpec {
    /// Whether gradients by this tensor can only be added to what is there. The gradient by a matrix is a
    /// product, and the first one of a step overwrites what was there; norms and looked-up rows add up.
    pub fn is_only_added_to(&self, model: &ModelSpec) -> bool {
        self.role == Role::Norm || (self.name == "embedding" && !model.tied)
    }
}

/// Returns the numbers of those tensors that `holds` chooses, among the numbers of all, one tensor after the
/// other. Neighbours share a span.
pub fn spans(tensors: &[TensorSpec], holds: impl Fn(&TensorSpec) -> bool) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut from = 0;
    for tensor in tensors {
        let to = from + tensor.shape.iter().product::<usize>();
        match spans.last_mut().filter(|last| last.end == from) {
            _ if !holds(tensor) => {}
            Some(last) => last.end = to,
            None => spans.push(from..to),
        }
        from = to;
    }
    spans
}

/// A part of a router's state that no gradient trains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferSpec {
    /// Name, as in [`buffers`].
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// Returns all trained tensors. Letters of the shapes: V vocabulary, D width, H heads, G kv heads, C head
/// width, E experts, F inner width.
///
/// ```text
/// embedding [V, D]
/// layers.0.attention_norm [D]   .query [H*C, D]  .key [G*C, D]  .value [G*C, D]
///          .query_norm [C]  .key_norm [C]  (with qk_norm)       .output [D, H*C]
///          .mlp_norm [D]
///          .dense_gate_up [2F, D]  .dense_down [D, F]           (dense layers)
///          .router [E, D]  .experts_gate_up [E, 2F, D]  .experts_down [E, D, F]
///          .shared_gate_up [2F, D]  .shared_down [D, F]         (with shared experts)
/// final_norm [D]
/// head [V, D]                                                   (unless tied)
/// mtp.token_norm [D]  mtp.hidden_norm [D]  mtp.token_projection [D, D]  mtp.hidden_projection [D, D]
/// mtp.attention_norm ... as a Mixture-of-Experts layer ...  mtp.final_norm [D]
/// ```
///
/// A `gate_up` tensor holds the F gate rows first, then the F up rows.
pub fn tensors(model: &ModelSpec) -> Vec<TensorSpec> {
    let mut list = Vec::new();
    let [v, d] = [model.vocabulary, model.width].map(|n| n as usize);
    list.push(matrix("embedding".into(), &[v, d]));
    for layer in 0..model.layers {
        block(&mut list, model, &format!("layers.{layer}"), model.is_moe(layer));
    }
    list.push(norm("final_norm".into(), d));
    if !model.tied {
        list.push(matrix("head".into(), &[v, d]));
    }
    if model.mtp_layers > 0 {
        list.push(norm("mtp.token_norm".into(), d));
        list.push(norm("mtp.hidden_norm".into(), d));
        list.push(matrix("mtp.token_projection".into(), &[d, d]));
        list.push(matrix("mtp.hidden_projection".into(), &[d, d]));
        block(&mut list, model, "mtp", true);
        list.push(norm("mtp.final_norm".into(), d));
    }
    list
}

/// Tensors that are used together: a transformer layer, or a tensor outside of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Name: the prefix of its tensors' names, such as `layers.3` and `mtp`; or `embedding`, `final_norm`,
    /// `head`.
    pub name: String,
    /// Range of its numbers among all of the model's, one tensor after the other.
    pub numbers: Range<usize>,
    /// Indices of its entries in [`buffers`].
    pub buffers: Vec<usize>,
}

/// Returns the layers in the order of their tensors, which is the order in which the forward pass first reads
/// them.
pub fn layers(model: &ModelSpec) -> Vec<Layer> {
    let buffers = buffers(model);
    let mut layers: Vec<Layer> = Vec::new();
    let mut from = 0;
    for TensorSpec { name, shape, .. } in tensors(model) {
        let (layer, to) = (layer_of(&name), from + shape.iter().product::<usize>());
        match layers.last_mut().filter(|last| last.name == layer) {
            Some(last) => last.numbers.end = to,
            None => {
                let is_its = |&index: &usize| layer_of(&buffers[index].name) == layer;
                let buffers = (0..buffers.len()).filter(is_its).collect();
                layers.push(Layer { name: layer.to_owned(), numbers: from..to, buffers });
            }
        }
        from = to;
    }
    layers
}

/// Returns the layer of a tensor: `layers.3` for `layers.3.query`, and the name itself outside of layers.
fn layer_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(layer, _)| layer)
}

fn block(list: &mut Vec<TensorSpec>, model: &ModelSpec, prefix: &str, is_moe: bool) {
    let [d, h, g, c] = [model.width, model.heads, model.kv_heads, model.head_width].map(|n| n as usize);
    let [e, f, shared] = [model.experts, model.expert_width, model.shared_width()].map(|n| n as usize);
    let dense = model.dense_width as usize;
    let name = |part: &str| format!("{prefix}.{part}");
    list.push(norm(name("attention_norm"), d));
    list.push(matrix(name("query"), &[h * c, d]));
    list.push(matrix(name("key"), &[g * c, d]));
    list.push(matrix(name("value"), &[g * c, d]));
    if model.qk_norm {
        list.push(norm(name("query_norm"), c));
        list.push(norm(name("key_norm"), c));
    }
    list.push(matrix(name("output"), &[d, h * c]));
    list.push(norm(name("mlp_norm"), d));
    if !is_moe {
        list.push(matrix(name("dense_gate_up"), &[2 * dense, d]));
        list.push(matrix(name("dense_down"), &[d, dense]));
        return;
    }
    list.push(matrix(name("router"), &[e, d]));
    list.push(matrix(name("experts_gate_up"), &[e, 2 * f, d]));
    list.push(matrix(name("experts_down"), &[e, d, f]));
    if shared > 0 {
        list.push(matrix(name("shared_gate_up"), &[2 * shared, d]));
        list.push(matrix(name("shared_down"), &[d, shared]));
    }
}

/// Returns the routers' buffers, in layer order: `<layer>.selection_bias [E]` where the router has one, and
/// `<layer>.logit_statistics [2]` (running mean and deviation of the logits) where routing is warmed up.
pub fn buffers(model: &ModelSpec) -> Vec<BufferSpec> {
    let mut prefixes: Vec<String> = (0..model.layers)
        .filter(|&layer| model.is_moe(layer))
        .map(|layer| format!("layers.{layer}"))
        .collect();
    if model.mtp_layers > 0 {
        prefixes.push("mtp".into());
    }
    let mut list = Vec::new();
    for prefix in prefixes {
        if model.router.selection_bias {
            let shape = vec![model.experts as usize];
            list.push(BufferSpec { name: format!("{prefix}.selection_bias"), shape });
        }
        if model.router.warmup_steps > 0 {
            list.push(BufferSpec { name: format!("{prefix}.logit_statistics"), shape: vec![2] });
        }
    }
    list
}

fn matrix(name: String, shape: &[usize]) -> TensorSpec {
    TensorSpec { name, shape: shape.to_vec(), role: Role::Matrix }
}

fn norm(name: String, width: usize) -> TensorSpec {
    TensorSpec { name, shape: vec![width], role: Role::Norm }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::{NAMES, preset};

    #[test]
    fn spans_hold_exactly_the_numbers_of_the_tensors_that_are_chosen() {
        for name in ["toy", "toy-v1"] {
            let tensors = tensors(&preset(name).unwrap());
            let spans = spans(&tensors, |tensor| tensor.role == Role::Matrix);
            let mut from = 0;
            for tensor in &tensors {
                let to = from + tensor.shape.iter().product::<usize>();
                let holds = |number| spans.iter().any(|span| span.contains(&number));
                let is_chosen = tensor.role == Role::Matrix;
                assert!((holds(from), holds(to - 1)) == (is_chosen, is_chosen), "{name}: {}", tensor.name);
                from = to;
            }
            assert!(spans.len() < tensors.len(), "{name}: neighbours are apart: {spans:?}");
        }
    }

    #[test]
    fn the_tensors_hold_exactly_the_parameters() {
        for name in NAMES {
            let model = preset(name).unwrap();
            let numbers: usize =
                tensors(&model).iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
            assert_eq!(numbers as u64, model.parameters() + model.mtp_parameters(), "{name}");
        }
    }
}
