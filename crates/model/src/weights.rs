//! The parameters by their place in the architecture, each with its number in the bundle, where its gradient
//! lies too.

use crate::bundle::Bundle;
use crate::seam::Gated;
use lingot_device::Tensor;
use lingot_spec::ModelSpec;
use lingot_spec::tensors::layers;
use std::ops::Deref;

/// A parameter tensor. It reads as the tensor itself.
pub(crate) struct Weight {
    tensor: Tensor,
    /// Its number in a bundle of the model.
    pub(crate) index: usize,
}

impl Deref for Weight {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

/// All parameters of a model, layer by layer.
pub(crate) struct Weights {
    /// `[V, D]`.
    pub(crate) embedding: Gated<Weight>,
    pub(crate) blocks: Vec<Gated<BlockWeights>>,
    /// `[D]`.
    pub(crate) final_norm: Gated<Weight>,
    /// `[V, D]`; the embedding again where the head is tied.
    pub(crate) head: Gated<Weight>,
    pub(crate) mtp: Option<Gated<MtpWeights>>,
}

/// The weights of a transformer layer.
pub(crate) struct BlockWeights {
    /// Its number, from 0; the multi-token-prediction layer follows the last.
    pub(crate) number: usize,
    pub(crate) attention: AttentionWeights,
    /// `[D]`.
    pub(crate) mlp_norm: Weight,
    pub(crate) mlp: MlpWeights,
}

/// The weights of grouped-query attention.
pub(crate) struct AttentionWeights {
    /// `[D]`.
    pub(crate) norm: Weight,
    /// `[H C, D]`.
    pub(crate) query: Weight,
    /// `[G C, D]`.
    pub(crate) key: Weight,
    /// `[G C, D]`.
    pub(crate) value: Weight,
    /// The norms of each head of q and of k, `[C]`.
    pub(crate) head_norms: Option<[Weight; 2]>,
    /// `[D, H C]`.
    pub(crate) output: Weight,
}

/// The weights of a layer's feed-forward network.
#[expect(clippy::large_enum_variant, reason = "there is one per layer")]
pub(crate) enum MlpWeights {
    Dense(DenseWeights),
    Moe(MoeWeights),
}

/// The weights of a dense feed-forward network.
pub(crate) struct DenseWeights {
    /// `[2 F, D]`, the F gate rows first.
    pub(crate) gate_up: Weight,
    /// `[D, F]`.
    pub(crate) down: Weight,
}

/// The weights of a Mixture of Experts.
pub(crate) struct MoeWeights {
    /// The layer's number among those with a router, from 0; the multi-token-prediction layer is the last.
    pub(crate) number: usize,
    /// `[E, D]`.
    pub(crate) router: Weight,
    /// `[E, 2 F, D]`, the F gate rows of each expert first.
    pub(crate) gate_up: Weight,
    /// `[E, D, F]`.
    pub(crate) down: Weight,
    pub(crate) shared: Option<DenseWeights>,
}

/// The weights of the multi-token-prediction layer.
pub(crate) struct MtpWeights {
    /// `[D]`.
    pub(crate) token_norm: Weight,
    /// `[D]`.
    pub(crate) hidden_norm: Weight,
    /// `[D, D]`.
    pub(crate) token_projection: Weight,
    /// `[D, D]`.
    pub(crate) hidden_projection: Weight,
    pub(crate) block: BlockWeights,
    /// `[D]`.
    pub(crate) final_norm: Weight,
}

impl Weights {
    /// The tensors of `parameters` in their places.
    ///
    /// # Panics
    /// If the bundle was made for another model.
    pub(crate) fn new(model: &ModelSpec, parameters: &Bundle) -> Weights {
        let layers = layers(model);
        let layer = |name: &str| found(layers.iter().find(|layer| layer.name == name).cloned(), name);
        let tensor = |name: &str| named(parameters, name);
        let gated = |name: &str| Gated::new(layer(name), tensor(name));
        let number_of_mtp = model.layers as usize;
        Weights {
            embedding: gated("embedding"),
            blocks: (0..number_of_mtp)
                .map(|number| {
                    let name = format!("layers.{number}");
                    Gated::new(layer(&name), block(model, parameters, &name, number))
                })
                .collect(),
            final_norm: gated("final_norm"),
            head: gated(if model.tied { "embedding" } else { "head" }),
            mtp: (model.mtp_layers > 0)
                .then(|| Gated::new(layer("mtp"), mtp(model, parameters, number_of_mtp))),
        }
    }
}

fn mtp(model: &ModelSpec, parameters: &Bundle, number: usize) -> MtpWeights {
    let get = |part: &str| named(parameters, &format!("mtp.{part}"));
    MtpWeights {
        token_norm: get("token_norm"),
        hidden_norm: get("hidden_norm"),
        token_projection: get("token_projection"),
        hidden_projection: get("hidden_projection"),
        block: block(model, parameters, "mtp", number),
        final_norm: get("final_norm"),
    }
}

fn block(model: &ModelSpec, parameters: &Bundle, prefix: &str, number: usize) -> BlockWeights {
    let get = |part: &str| named(parameters, &format!("{prefix}.{part}"));
    let dense = |part: &str| DenseWeights {
        gate_up: get(&format!("{part}_gate_up")),
        down: get(&format!("{part}_down")),
    };
    let mlp = match number.checked_sub(model.dense_layers as usize) {
        None => MlpWeights::Dense(dense("dense")),
        Some(number) => MlpWeights::Moe(MoeWeights {
            number,
            router: get("router"),
            gate_up: get("experts_gate_up"),
            down: get("experts_down"),
            shared: (model.shared_experts > 0).then(|| dense("shared")),
        }),
    };
    BlockWeights {
        number,
        attention: AttentionWeights {
            norm: get("attention_norm"),
            query: get("query"),
            key: get("key"),
            value: get("value"),
            head_norms: model.qk_norm.then(|| [get("query_norm"), get("key_norm")]),
            output: get("output"),
        },
        mlp_norm: get("mlp_norm"),
        mlp,
    }
}

fn named(parameters: &Bundle, name: &str) -> Weight {
    let index = found(parameters.specs.iter().position(|spec| spec.name == name), name);
    Weight { tensor: parameters.tensors[index].clone(), index }
}

fn found<T>(value: Option<T>, name: &str) -> T {
    value.unwrap_or_else(|| panic!("the bundle of another model: it has no `{name}`"))
}
