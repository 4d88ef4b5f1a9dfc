//! A bundle's tensors by their place in the architecture. Parameters and gradients have the same form.

use crate::bundle::Bundle;
use lingot_device::Tensor;
use lingot_spec::ModelSpec;

/// All tensors of a model, or all their gradients.
pub(crate) struct Weights {
    pub(crate) embedding: Tensor,
    pub(crate) blocks: Vec<BlockWeights>,
    pub(crate) final_norm: Tensor,
    /// The embedding again where the head is tied.
    pub(crate) head: Tensor,
    pub(crate) mtp: Option<MtpWeights>,
}

pub(crate) struct BlockWeights {
    pub(crate) attention: AttentionWeights,
    pub(crate) mlp_norm: Tensor,
    pub(crate) mlp: MlpWeights,
}

pub(crate) struct AttentionWeights {
    pub(crate) norm: Tensor,
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
    /// The norms of each head of q and of k.
    pub(crate) head_norms: Option<[Tensor; 2]>,
    pub(crate) output: Tensor,
}

pub(crate) enum MlpWeights {
    Dense(DenseWeights),
    Moe(MoeWeights),
}

pub(crate) struct DenseWeights {
    pub(crate) gate_up: Tensor,
    pub(crate) down: Tensor,
}

pub(crate) struct MoeWeights {
    pub(crate) router: Tensor,
    pub(crate) gate_up: Tensor,
    pub(crate) down: Tensor,
    pub(crate) shared: Option<DenseWeights>,
}

pub(crate) struct MtpWeights {
    pub(crate) token_norm: Tensor,
    pub(crate) hidden_norm: Tensor,
    pub(crate) token_projection: Tensor,
    pub(crate) hidden_projection: Tensor,
    pub(crate) block: BlockWeights,
    pub(crate) final_norm: Tensor,
}

impl Weights {
    /// The bundle's tensors in their places. The bundle was made for this model.
    pub(crate) fn new(model: &ModelSpec, bundle: &Bundle) -> Weights {
        let get = |name: &str| named(bundle, name);
        let mtp = (model.mtp_layers > 0).then(|| MtpWeights {
            token_norm: get("mtp.token_norm"),
            hidden_norm: get("mtp.hidden_norm"),
            token_projection: get("mtp.token_projection"),
            hidden_projection: get("mtp.hidden_projection"),
            block: block(model, bundle, "mtp", true),
            final_norm: get("mtp.final_norm"),
        });
        Weights {
            embedding: get("embedding"),
            blocks: (0..model.layers)
                .map(|layer| block(model, bundle, &format!("layers.{layer}"), model.is_moe(layer)))
                .collect(),
            final_norm: get("final_norm"),
            head: get(if model.tied { "embedding" } else { "head" }),
            mtp,
        }
    }
}

fn block(model: &ModelSpec, bundle: &Bundle, prefix: &str, is_moe: bool) -> BlockWeights {
    let get = |part: &str| named(bundle, &format!("{prefix}.{part}"));
    let dense = |part: &str| DenseWeights {
        gate_up: get(&format!("{part}_gate_up")),
        down: get(&format!("{part}_down")),
    };
    let mlp = if is_moe {
        MlpWeights::Moe(MoeWeights {
            router: get("router"),
            gate_up: get("experts_gate_up"),
            down: get("experts_down"),
            shared: (model.shared_experts > 0).then(|| dense("shared")),
        })
    } else {
        MlpWeights::Dense(dense("dense"))
    };
    BlockWeights {
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

fn named(bundle: &Bundle, name: &str) -> Tensor {
    bundle.get(name).unwrap_or_else(|| panic!("the bundle of another model: no tensor `{name}`")).clone()
}
