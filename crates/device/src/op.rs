//! The alphabet: all that a chip is ever asked to do.
//!
//! Letters of the shapes: T tokens, S keys, D width, H heads, G kv heads, C head width, V vocabulary, E experts,
//! K choices, R = T*K routed rows, F inner width, N and M and K any. Ids and counts are i32, the rest floats of one
//! kind. "Adds" means that the output is accumulated into. Every op is deterministic: its result does not depend
//! on the number of threads.

use crate::tensor::Tensor;
use lingot_spec::Score;

/// One op with its operands. The front doors in [`crate::ops`] build them; gradients are ops of their own.
pub enum Op<'a> {
    /// `out[m,n] = a[m,k] b[k,n]`, either operand stored transposed where `flip` says so; `add` accumulates.
    MatMul { a: &'a Tensor, b: &'a Tensor, out: &'a Tensor, flip: Flip, add: bool },
    /// Rows sorted by expert, each times its expert's matrix. Expert e owns rows `ends[e-1]..ends[e]`.
    /// Forward: `out[r] = W_e x[r]`, x `[R,K]` to out `[R,N]`.
    /// With `flip`: `out[r] = x[r] W_e`, x `[R,N]` to out `[R,K]`.
    GroupedMatMul { x: &'a Tensor, w_enk: &'a Tensor, ends_e: &'a Tensor, out: &'a Tensor, flip: bool },
    /// Gradient of `GroupedMatMul` by its weights: `dW_e += sum of dy[r] x[r]^T over its rows`. Adds.
    GroupedMatMulWeights { dy_rn: &'a Tensor, x_rk: &'a Tensor, ends_e: &'a Tensor, dw_enk: &'a Tensor },
    /// `out[t] = table[tokens[t]]`.
    Embedding { table_vd: &'a Tensor, tokens_t: &'a Tensor, out_td: &'a Tensor },
    /// Gradient of `Embedding`, in order of t. Adds.
    EmbeddingGrad { d_out_td: &'a Tensor, tokens_t: &'a Tensor, d_table_vd: &'a Tensor },
    /// `out = x / sqrt(mean(x^2) + epsilon) * scale`, over the last dimension.
    RmsNorm { x: &'a Tensor, scale_d: &'a Tensor, epsilon: f64, out: &'a Tensor },
    /// Gradient of `RmsNorm`; adds into `d_scale`, and into `d_x` where `add` says so.
    RmsNormGrad {
        d_out: &'a Tensor,
        x: &'a Tensor,
        scale_d: &'a Tensor,
        epsilon: f64,
        d_x: &'a Tensor,
        d_scale_d: &'a Tensor,
        add: bool,
    },
    /// Rotates the pairs (i, i + rotary/2) of the first `rotary_width` of each head by `position * theta^(-2i/rotary)`,
    /// in place. `back` rotates the other way, which is the gradient.
    Rope { x_thc: &'a Tensor, positions_t: &'a Tensor, rotary_width: usize, theta: f64, back: bool },
    /// Causal attention within documents. The T queries are the last T of the S keys: query t sees the keys
    /// `starts[t] ..= S - T + t`. Query head h reads kv head `h / (H / G)`. Saves `lse = log sum exp(scaled scores)`.
    Attention {
        q_thc: &'a Tensor,
        k_sgc: &'a Tensor,
        v_sgc: &'a Tensor,
        starts_t: &'a Tensor,
        scale: f64,
        out_thc: &'a Tensor,
        lse_th: &'a Tensor,
    },
    /// Gradient of `Attention`, S = T.
    AttentionGrad {
        d_out_thc: &'a Tensor,
        q_thc: &'a Tensor,
        k_sgc: &'a Tensor,
        v_sgc: &'a Tensor,
        starts_t: &'a Tensor,
        scale: f64,
        out_thc: &'a Tensor,
        lse_th: &'a Tensor,
        d_q_thc: &'a Tensor,
        d_k_sgc: &'a Tensor,
        d_v_sgc: &'a Tensor,
    },
    /// `out = silu(gate) * up`, the first half of each row being the gate; times the row's weight where given.
    Swiglu { gate_up: &'a Tensor, weights_r: Option<&'a Tensor>, out_rf: &'a Tensor },
    /// Gradient of `Swiglu`. `d_weights` is given exactly where `weights` is.
    SwigluGrad {
        gate_up: &'a Tensor,
        weights_r: Option<&'a Tensor>,
        d_out_rf: &'a Tensor,
        d_gate_up: &'a Tensor,
        d_weights_r: Option<&'a Tensor>,
    },
    /// Chooses K experts for each token by `rule` and weighs them. Ties go to the lowest index. Also counts: for each
    /// scope of `scope_tokens` tokens how often each expert was chosen (`counts`), the same over all (`loads`, adds),
    /// and (`losses`, adds) the sum over scopes of the balance loss and the sum over tokens of logsumexp^2.
    Route {
        logits_te: &'a Tensor,
        bias_e: Option<&'a Tensor>,
        rule: RouteRule,
        experts_tk: &'a Tensor,
        weights_tk: &'a Tensor,
        counts_ge: &'a Tensor,
        loads_e: &'a Tensor,
        losses_2: &'a Tensor,
    },
    /// Gradient of `Route` by the logits, times `keep`: of the weights, of `balance_scale` x the sum of balance
    /// losses, and of `z_scale` x the sum of logsumexp^2.
    RouteGrad {
        logits_te: &'a Tensor,
        experts_tk: &'a Tensor,
        counts_ge: &'a Tensor,
        d_weights_tk: &'a Tensor,
        rule: RouteRule,
        balance_scale: f64,
        z_scale: f64,
        keep: f64,
        d_logits_te: &'a Tensor,
    },
    /// Stochastic routing warmup, in place: `x = keep x + (1 - keep)(mean + deviation noise)`.
    WarmLogits { logits_te: &'a Tensor, noise_te: &'a Tensor, keep: f64, mean: f64, deviation: f64 },
    /// A stable sort of all choices by expert: `order[r]` is the choice (t*K + k) at sorted row r, `places` its
    /// inverse, `ends[e]` the row after expert e's last.
    SortByExpert { experts_tk: &'a Tensor, ends_e: &'a Tensor, order_r: &'a Tensor, places_tk: &'a Tensor },
    /// `out[r] = x[order[r] / choices]`. Backward partner: `Combine`.
    Dispatch { x_td: &'a Tensor, order_r: &'a Tensor, choices: usize, out_rd: &'a Tensor },
    /// `out[t] = sum over k of x[places[t,k]]`, in order of k; `add` accumulates. Backward partner: `Dispatch`.
    Combine { x_rd: &'a Tensor, places_tk: &'a Tensor, out_td: &'a Tensor, add: bool },
    /// NormHead's `out[d] = 1 / (||w[:,d]||_2 + 1e-7)`, the norm over the vocabulary (Ling report, equation 4).
    ColumnScales { w_vd: &'a Tensor, out_d: &'a Tensor },
    /// `out[t,d] = x[t,d] scales[d]`.
    ScaleColumns { x_td: &'a Tensor, scales_d: &'a Tensor, out_td: &'a Tensor },
    /// `losses[t] = logsumexp(w x[t]) - (w x[t])[target]`, 0 where the target is -1. No T x V logits exist.
    CrossEntropy { x_td: &'a Tensor, w_vd: &'a Tensor, targets_t: &'a Tensor, losses_t: &'a Tensor },
    /// `CrossEntropy` and the gradient of `scale` x the sum of its losses in one go; adds into `d_w`.
    CrossEntropyGrad {
        x_td: &'a Tensor,
        w_vd: &'a Tensor,
        targets_t: &'a Tensor,
        scale: f64,
        losses_t: &'a Tensor,
        d_x_td: &'a Tensor,
        d_w_vd: &'a Tensor,
    },
    /// One AdamW step in place. The gradient is first scaled by `min(1, clip / (sqrt(squares) + 1e-6))`.
    AdamW {
        parameter: &'a Tensor,
        gradient: &'a Tensor,
        first: &'a Tensor,
        second: &'a Tensor,
        squares_1: &'a Tensor,
        rule: AdamRule,
    },
    /// `out[0] += sum of x^2`.
    SumOfSquares { x: &'a Tensor, out_1: &'a Tensor },
    /// `out[0] += sum of x`, `out[1] += sum of x^2`.
    Moments { x: &'a Tensor, out_2: &'a Tensor },
    /// The selection bias's step, in place: `b += rate (sign(e) - mean(sign(e)))`, `e = mean(loads) - load`.
    BalanceBias { loads_e: &'a Tensor, bias_e: &'a Tensor, rate: f64 },
    /// `out += x`.
    Add { x: &'a Tensor, out: &'a Tensor },
    /// `out = x`, converted between kinds of floats where they differ.
    Copy { x: &'a Tensor, out: &'a Tensor },
    /// Every element becomes `value`.
    Fill { out: &'a Tensor, value: f64 },
}

/// Which operands of a `MatMul` are stored transposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flip {
    pub a: bool,
    pub b: bool,
}

impl Flip {
    pub const NONE: Flip = Flip { a: false, b: false };
    /// `a b^T`: activations times a weight stored `[out, in]`.
    pub const B: Flip = Flip { a: false, b: true };
    /// `a^T b`: the gradient by such a weight.
    pub const A: Flip = Flip { a: true, b: false };
}

/// How experts are chosen and weighed; the numbers of a router that the op needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteRule {
    pub score: Score,
    pub choices: usize,
    pub groups: usize,
    pub groups_kept: usize,
    pub renormalise: bool,
    pub scale: f64,
    /// Tokens of one scope of the balance loss; divides T.
    pub scope_tokens: usize,
}

/// The numbers of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamRule {
    pub rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Decoupled decay: the parameter is first multiplied by `1 - rate * decay`.
    pub decay: f64,
    /// Steps done, this one included; from 1.
    pub step: u64,
    /// 0 for no clipping.
    pub clip: f64,
}
