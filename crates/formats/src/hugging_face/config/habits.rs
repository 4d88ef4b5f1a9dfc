//! What a format calls the keys that formats name differently, and what its class in `transformers` assumes
//! where a key is absent.

use crate::hugging_face::format::Format;

/// The habits of one format.
#[derive(Clone, Copy)]
pub(super) struct Habits {
    /// The spellings of the number of experts; the first is the format's own.
    pub(super) experts: &'static [&'static str],
    /// The number of experts where no key says it; none where it has to be said.
    pub(super) usual_experts: Option<u32>,
    /// The experts a token visits where no key says it.
    pub(super) usual_choices: Option<u32>,
    /// The key of an expert's inner width.
    pub(super) expert_width: &'static str,
    /// An expert's inner width where no key says it.
    pub(super) usual_expert_width: Option<u32>,
    /// The spellings of the number of shared experts; empty where the format has none.
    pub(super) shared: &'static [&'static str],
    /// The number of shared experts where no key says it.
    pub(super) usual_shared: Option<u32>,
    /// Key and value heads where no key says it; none for as many as query heads.
    pub(super) kv_heads: Option<u32>,
    /// The epsilon of norms.
    pub(super) epsilon: f64,
    /// The base of the frequencies.
    pub(super) theta: f64,
    /// `norm_topk_prob`.
    pub(super) renormalise: bool,
    /// `n_group`, `topk_group` and `routed_scaling_factor`.
    pub(super) limits: (u32, u32, f64),
    /// `first_k_dense_replace`.
    pub(super) dense_layers: u32,
    /// `sliding_window` and the first layer that has it, where the class slides unless told otherwise.
    pub(super) sliding: Option<(u64, u64)>,
}

const COMMON: Habits = Habits {
    experts: &["num_experts", "num_local_experts"],
    usual_experts: None,
    usual_choices: None,
    expert_width: "moe_intermediate_size",
    usual_expert_width: None,
    shared: &[],
    usual_shared: None,
    kv_heads: None,
    epsilon: 1e-5,
    theta: 10_000.0,
    renormalise: true,
    limits: (1, 1, 1.0),
    dense_layers: 0,
    sliding: None,
};

/// The habits of a format.
pub(super) fn habits(format: Format) -> Habits {
    match format {
        Format::Qwen3Moe => Habits { kv_heads: Some(4), epsilon: 1e-6, renormalise: false, ..COMMON },
        Format::Glm4Moe => Habits {
            experts: &["n_routed_experts", "num_local_experts"],
            shared: &["n_shared_experts"],
            usual_shared: Some(1),
            kv_heads: Some(8),
            dense_layers: 1,
            ..COMMON
        },
        Format::BailingMoe => {
            Habits { shared: &["num_shared_experts", "n_shared_experts"], usual_shared: Some(0), ..COMMON }
        }
        Format::BailingMoeV2 => Habits { limits: (8, 4, 2.5), ..habits(Format::BailingMoe) },
        Format::Mixtral => Habits {
            experts: &["num_local_experts", "num_experts"],
            usual_experts: Some(8),
            usual_choices: Some(2),
            expert_width: "intermediate_size",
            usual_expert_width: Some(14336),
            kv_heads: Some(8),
            theta: 1e6,
            ..COMMON
        },
        Format::Olmoe => Habits {
            usual_experts: Some(64),
            usual_choices: Some(8),
            expert_width: "intermediate_size",
            usual_expert_width: Some(2048),
            renormalise: false,
            ..COMMON
        },
        Format::Dots1 => Habits {
            experts: &["n_routed_experts", "num_local_experts"],
            usual_expert_width: Some(1408),
            shared: &["n_shared_experts"],
            kv_heads: Some(32),
            epsilon: 1e-6,
            renormalise: false,
            sliding: Some((4096, 62)),
            ..COMMON
        },
    }
}
