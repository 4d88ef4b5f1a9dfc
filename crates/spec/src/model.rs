//! The architecture of a Mixture-of-Experts transformer, and its parameters, work per token and bytes.

use crate::problem::{Problem, Result};
use serde::{Deserialize, Serialize};

/// The architecture of a model. Ling v1 and v2 are both points in this space.
///
/// Every layer is pre-norm: attention, then either a dense feed-forward network (the first `dense_layers`) or
/// a Mixture of Experts. There are no biases. Sources: Ling technical report (arXiv 2503.05139) and Ling 2.0
/// (arXiv 2510.22115).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Rows of the embedding table: at least the number of the tokenizer's tokens.
    pub vocabulary: u32,
    /// Width of the residual stream ("hidden size").
    pub width: u32,
    /// Transformer layers, dense ones included, the multi-token-prediction layer not.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Width of one head ("head dim").
    pub head_width: u32,
    /// Number of first layers with a dense feed-forward network ("first_k_dense_replace").
    pub dense_layers: u32,
    /// Inner width of the dense feed-forward network.
    pub dense_width: u32,
    /// Routed experts of a layer.
    pub experts: u32,
    /// Experts that each token visits ("top-k").
    pub choices: u32,
    /// Inner width of one expert.
    pub expert_width: u32,
    /// Experts that every token visits, as one network of inner width `shared_experts * expert_width`.
    pub shared_experts: u32,
    /// How tokens choose their experts.
    pub router: RouterSpec,
    /// Whether each head of query and key passes an RMSNorm before RoPE.
    pub qk_norm: bool,
    /// Channels of a head that are rotated, the first of `head_width` (partial RoPE); even.
    pub rotary_width: u32,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
    /// Epsilon of every RMSNorm.
    pub norm_epsilon: f64,
    /// Whether the head is a NormHead: its columns, over the vocabulary, are scaled to norm one; the norm
    /// takes no gradient (Ling report, arXiv 2503.05139, equation 4).
    pub norm_head: bool,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Multi-token-prediction layers, 0 or 1. Its block is a Mixture-of-Experts layer.
    pub mtp_layers: u32,
    /// Weight of the multi-token-prediction loss.
    pub mtp_weight: f64,
    /// Standard deviation of the initial weights.
    pub initial_deviation: f64,
}

/// How the router's logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Ling v1: softmax over all experts.
    Softmax,
    /// Ling v2: each logit alone through a sigmoid.
    Sigmoid,
}

/// How tokens choose their experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterSpec {
    /// How logits become scores.
    pub score: Score,
    /// Whether the weights of the chosen experts are made to sum to one before `scale` is applied.
    pub renormalise: bool,
    /// Factor of the weights ("routed_scaling_factor").
    pub scale: f64,
    /// Number of groups that the experts are divided into; 1 for routing that is not limited by group.
    pub groups: u32,
    /// Number of groups that a token chooses its experts from: those whose two best experts have the largest
    /// sum.
    pub groups_kept: u32,
    /// Whether experts are selected by score + bias, with a bias that moves towards equal loads. The weights
    /// of the answers do not contain it.
    pub selection_bias: bool,
    /// Step of the bias, with the zero-mean update `b += rate * (sign(e) - mean(sign(e)))`, e = mean load -
    /// load.
    pub bias_rate: f64,
    /// Coefficient of the balance loss `E * sum_e f_e P_e`; 0 for none.
    pub balance_loss: f64,
    /// Number of sequences that the balance loss is taken over. Micro-batches of multiples of it change
    /// nothing.
    pub balance_sequences: u32,
    /// Coefficient of the router's z-loss, the mean of logsumexp(logits)^2; 0 for none.
    pub z_loss: f64,
    /// Steps of stochastic routing warmup (Ling report, arXiv 2503.05139, equation 3); 0 for none.
    pub warmup_steps: u64,
}

impl ModelSpec {
    /// Checks that the sizes fit together. Errors with the key and the numbers that do not.
    pub fn check(&self) -> Result<()> {
        self.check_sizes()?;
        self.check_router()
    }

    fn check_sizes(&self) -> Result<()> {
        for (key, value) in [
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_width", self.head_width),
        ] {
            require(value > 0, || {
                (format!("model.{key} is 0"), format!("give model.{key} a positive value"))
            })?;
        }
        require(self.heads.is_multiple_of(self.kv_heads), || {
            (
                format!(
                    "model.heads ({}) is not a multiple of model.kv_heads ({})",
                    self.heads, self.kv_heads
                ),
                "each key/value head serves the same number of query heads".into(),
            )
        })?;
        require(self.rotary_width <= self.head_width && self.rotary_width.is_multiple_of(2), || {
            (
                format!(
                    "model.rotary_width ({}) must be even and at most model.head_width ({})",
                    self.rotary_width, self.head_width
                ),
                "the rotated part of a head is made of pairs".into(),
            )
        })?;
        require(self.dense_layers <= self.layers, || {
            (
                format!("model.dense_layers ({}) exceeds model.layers ({})", self.dense_layers, self.layers),
                "the dense layers are the first of all layers".into(),
            )
        })?;
        require(self.dense_layers == 0 || self.dense_width > 0, || {
            (
                format!("model.dense_width is 0 but model.dense_layers is {}", self.dense_layers),
                "give the dense layers an inner width".into(),
            )
        })?;
        require(self.mtp_layers <= 1, || {
            (format!("model.mtp_layers is {}", self.mtp_layers), "0 or 1 are supported".into())
        })?;
        require(self.norm_epsilon > 0.0 && self.rope_theta > 0.0 && self.initial_deviation > 0.0, || {
            (
                "model.norm_epsilon, model.rope_theta and model.initial_deviation must be positive".into(),
                format!("they are {}, {} and {}", self.norm_epsilon, self.rope_theta, self.initial_deviation),
            )
        })
    }

    fn check_router(&self) -> Result<()> {
        if self.moe_layers() + self.mtp_layers == 0 {
            return Ok(());
        }
        let router = &self.router;
        require(self.experts > 0 && self.expert_width > 0, || {
            (
                format!("model.experts is {} and model.expert_width {}", self.experts, self.expert_width),
                "a Mixture-of-Experts layer needs both; for a dense model set dense_layers = layers".into(),
            )
        })?;
        require(self.choices >= 1 && self.choices <= self.experts, || {
            (
                format!(
                    "model.choices ({}) is not between 1 and model.experts ({})",
                    self.choices, self.experts
                ),
                "a token visits each expert at most once".into(),
            )
        })?;
        require(router.groups >= 1 && self.experts.is_multiple_of(router.groups), || {
            (
                format!(
                    "model.experts ({}) is not a multiple of model.router.groups ({})",
                    self.experts, router.groups
                ),
                "use groups = 1 for routing that is not limited by group".into(),
            )
        })?;
        require(router.groups_kept >= 1 && router.groups_kept <= router.groups, || {
            (
                format!(
                    "model.router.groups_kept ({}) is not between 1 and groups ({})",
                    router.groups_kept, router.groups
                ),
                "use groups_kept = groups to keep all".into(),
            )
        })?;
        let eligible = router.groups_kept * (self.experts / router.groups);
        require(self.choices <= eligible, || {
            (
                format!(
                    "model.choices ({}) exceeds the experts of the kept groups ({eligible})",
                    self.choices
                ),
                "keep more groups or choose fewer experts".into(),
            )
        })?;
        require(router.balance_sequences >= 1, || {
            ("model.router.balance_sequences is 0".into(), "1 balances each sequence by itself".into())
        })
    }

    /// The number of layers with a Mixture of Experts, without the multi-token-prediction layer.
    pub fn moe_layers(&self) -> u32 {
        self.layers - self.dense_layers.min(self.layers)
    }

    /// Inner width of the shared expert; 0 for none.
    pub fn shared_width(&self) -> u32 {
        self.shared_experts * self.expert_width
    }

    /// Whether layer `layer` (from 0) has a Mixture of Experts.
    pub fn is_moe(&self, layer: u32) -> bool {
        layer >= self.dense_layers
    }

    /// The number of trained numbers, without the multi-token-prediction layer. Selection biases do not
    /// count.
    pub fn parameters(&self) -> u64 {
        let (embedding, head) = self.vocabulary_parameters();
        embedding + head + self.body_parameters(self.experts) + u64::from(self.width)
    }

    /// The number of trained numbers that one token meets: as `parameters`, with `choices` experts instead of
    /// all.
    pub fn activated_parameters(&self) -> u64 {
        let (embedding, head) = self.vocabulary_parameters();
        embedding + head + self.body_parameters(self.choices) + u64::from(self.width)
    }

    /// The number of trained numbers that one token meets, without embedding and head.
    pub fn activated_body_parameters(&self) -> u64 {
        self.body_parameters(self.choices) + u64::from(self.width)
    }

    /// The number of the multi-token-prediction layer's trained numbers: two norms, two projections, a block,
    /// a norm.
    pub fn mtp_parameters(&self) -> u64 {
        let d = u64::from(self.width);
        u64::from(self.mtp_layers)
            * (3 * d + 2 * d * d + self.attention_parameters() + self.moe_parameters(self.experts) + 2 * d)
    }

    fn vocabulary_parameters(&self) -> (u64, u64) {
        let table = u64::from(self.vocabulary) * u64::from(self.width);
        (table, if self.tied { 0 } else { table })
    }

    fn body_parameters(&self, experts: u32) -> u64 {
        let d = u64::from(self.width);
        let dense = 3 * d * u64::from(self.dense_width);
        u64::from(self.layers) * (self.attention_parameters() + 2 * d)
            + u64::from(self.dense_layers) * dense
            + u64::from(self.moe_layers()) * self.moe_parameters(experts)
    }

    fn attention_parameters(&self) -> u64 {
        let [d, h, g, c] = [self.width, self.heads, self.kv_heads, self.head_width].map(u64::from);
        let norms = if self.qk_norm { 2 * c } else { 0 };
        d * (2 * h + 2 * g) * c + norms
    }

    fn moe_parameters(&self, experts: u32) -> u64 {
        let [d, f, shared] = [self.width, self.expert_width, self.shared_width()].map(u64::from);
        u64::from(self.experts) * d + 3 * d * (u64::from(experts) * f + shared)
    }

    /// FLOPs of forward and backward for one token at a context of `sequence` tokens: six per activated
    /// weight of a product (looking up the embedding takes none), and the causal half of attention's two
    /// products, three times.
    pub fn flops_per_token(&self, sequence: u32) -> f64 {
        let [d, h, c, v] = [self.width, self.heads, self.head_width, self.vocabulary].map(f64::from);
        let layers = f64::from(self.layers + self.mtp_layers);
        let attention = self.attention_parameters() as f64 - if self.qk_norm { 2.0 * c } else { 0.0 };
        let moe = self.moe_parameters(self.choices) as f64;
        let dense = 3.0 * d * f64::from(self.dense_width);
        let mtp = f64::from(self.mtp_layers);
        let weights = layers * attention
            + f64::from(self.moe_layers()) * moe
            + f64::from(self.dense_layers) * dense
            + mtp * (moe + 2.0 * d * d)
            + (1.0 + mtp) * v * d;
        6.0 * weights + layers * 3.0 * 4.0 * h * c * f64::from(sequence) / 2.0
    }

    /// Bytes of weights, gradients and optimizer state in f32: 16 for each trained number.
    pub fn bytes_to_train(&self) -> u64 {
        16 * (self.parameters() + self.mtp_parameters())
    }
}

fn require(holds: bool, error: impl FnOnce() -> (String, String)) -> Result<()> {
    if holds {
        return Ok(());
    }
    let (problem, hint) = error();
    Err(Problem::new(problem, hint))
}
