//! Each op's name, and its cost by the arithmetic of `spec::cost`.

use crate::op::Op;
use crate::tensor::Tensor;
use lingot_spec::cost::{self, Cost};

impl Op<'_> {
    /// The op's name, as in profiles, certificates and errors.
    pub fn name(&self) -> &'static str {
        match self {
            Op::MatMul { .. } => "matmul",
            Op::GroupedMatMul { .. } => "grouped_matmul",
            Op::GroupedMatMulWeights { .. } => "grouped_matmul_weights",
            Op::Embedding { .. } => "embedding",
            Op::EmbeddingGrad { .. } => "embedding_grad",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormGrad { .. } => "rms_norm_grad",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::AttentionGrad { .. } => "attention_grad",
            Op::Swiglu { .. } => "swiglu",
            Op::SwigluGrad { .. } => "swiglu_grad",
            Op::Route { .. } => "route",
            Op::RouteGrad { .. } => "route_grad",
            Op::WarmLogits { .. } => "warm_logits",
            Op::SortByExpert { .. } => "sort_by_expert",
            Op::Dispatch { .. } => "dispatch",
            Op::Combine { .. } => "combine",
            Op::ColumnScales { .. } => "column_scales",
            Op::ScaleColumns { .. } => "scale_columns",
            Op::CrossEntropy { .. } => "cross_entropy",
            Op::CrossEntropyGrad { .. } => "cross_entropy_grad",
            Op::AdamW { .. } => "adamw",
            Op::SumOfSquares { .. } => "sum_of_squares",
            Op::Moments { .. } => "moments",
            Op::BalanceBias { .. } => "balance_bias",
            Op::Add { .. } => "add",
            Op::Copy { .. } => "copy",
            Op::Fill { .. } => "fill",
        }
    }

    /// FLOPs and least bytes.
    pub fn cost(&self) -> Cost {
        match self {
            Op::MatMul { a, b, out, flip, add } => {
                let (k, n) = if flip.b { (b.shape()[1], b.shape()[0]) } else { (b.shape()[0], b.shape()[1]) };
                cost::matmul([out.shape()[0], n, k], a.kind().bytes(), *add)
            }
            Op::GroupedMatMul { x, w_enk, .. } => {
                cost::grouped_matmul(x.shape()[0], dims(w_enk), x.kind().bytes())
            }
            Op::GroupedMatMulWeights { dy_rn, dw_enk, .. } => {
                cost::grouped_matmul_weights(dy_rn.shape()[0], dims(dw_enk), dy_rn.kind().bytes())
            }
            Op::Attention { q_thc, k_sgc, .. } => {
                let [t, h, c] = dims(q_thc);
                let [s, g, _] = dims(k_sgc);
                cost::attention([t, s, h, g, c], q_thc.kind().bytes())
            }
            Op::AttentionGrad { q_thc, k_sgc, .. } => {
                let [t, h, c] = dims(q_thc);
                cost::attention_grad([t, h, k_sgc.shape()[1], c], q_thc.kind().bytes())
            }
            Op::CrossEntropy { x_td, w_vd, .. } => {
                cost::cross_entropy([x_td.shape()[0], w_vd.shape()[0], x_td.shape()[1]], x_td.kind().bytes())
            }
            Op::CrossEntropyGrad { x_td, w_vd, .. } => cost::cross_entropy_grad(
                [x_td.shape()[0], w_vd.shape()[0], x_td.shape()[1]],
                x_td.kind().bytes(),
            ),
            moving => cost::moves(moving.elements_moved(), 4),
        }
    }

    /// Elements read plus elements written, of the ops that only move.
    fn elements_moved(&self) -> usize {
        match self {
            Op::Embedding { out_td, .. } => 2 * out_td.len(),
            Op::EmbeddingGrad { d_out_td, .. } => 3 * d_out_td.len(),
            Op::RmsNorm { x, .. } => 2 * x.len(),
            Op::RmsNormGrad { x, add, .. } => (3 + usize::from(*add)) * x.len(),
            Op::Rope { x_thc, .. } => 2 * x_thc.len(),
            Op::Swiglu { gate_up, .. } => gate_up.len() / 2 * 3,
            Op::SwigluGrad { gate_up, .. } => gate_up.len() / 2 * 5,
            Op::Route { logits_te, .. } => logits_te.len(),
            Op::RouteGrad { logits_te, .. } => 2 * logits_te.len(),
            Op::WarmLogits { logits_te, .. } => 3 * logits_te.len(),
            Op::SortByExpert { order_r, .. } => 3 * order_r.len(),
            Op::Dispatch { out_rd, .. } => 2 * out_rd.len(),
            Op::Combine { x_rd, out_td, add, .. } => x_rd.len() + (1 + usize::from(*add)) * out_td.len(),
            Op::ColumnScales { w_vd, .. } => w_vd.len(),
            Op::ScaleColumns { x_td, .. } => 2 * x_td.len(),
            Op::AdamW { parameter, .. } => 7 * parameter.len(),
            Op::SumOfSquares { x, .. } | Op::Moments { x, .. } => x.len(),
            Op::BalanceBias { bias_e, .. } => 3 * bias_e.len(),
            Op::Add { out, .. } => 3 * out.len(),
            Op::Copy { out, .. } => 2 * out.len(),
            Op::Fill { out, .. } => out.len(),
            _ => 0,
        }
    }
}

/// The dimensions of an operand whose rank the front door has checked.
fn dims<const N: usize>(tensor: &Tensor) -> [usize; N] {
    std::array::from_fn(|axis| tensor.shape()[axis])
}
