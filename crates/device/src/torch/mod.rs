//! Any chip that has a PyTorch: the user's own libtorch, opened at run time through its stable C functions.
//!
//! No Python, no C++ and nothing of torch's at build time. A slot is a flat tensor of f32 on the device;
//! operands are views of it; bf16 ones are views in bf16, or f32 twins (`Torch::with_twins`). Ops are
//! compositions of torch's operators, with a fused one where the device has it. Reading order: `library`,
//! `value`, `aten`, `operands`, then any op.

mod aten;
mod counts;
mod cublas;
mod determinism;
mod device;
mod documents;
mod kernels;
mod known;
mod library;
mod makers;
mod memory;
mod operands;
mod probe;
mod refusal;
mod routes;
mod staging;
mod value;

mod adamw;
mod attention;
mod attention_composed;
mod attention_cudnn;
mod attention_fused;
mod attention_packed;
mod attention_trials;
mod balance_bias;
mod combine;
mod cross_entropy;
mod dispatch;
mod elementwise;
mod embedding;
mod grouped_matmul;
mod matmul;
mod norm_head;
mod rms_norm;
mod rope;
mod route;
mod route_grad;
mod selection;
mod sort_by_expert;
mod sums;
mod swiglu;

pub use aten::{Call, calls};
pub use counts::{Counts, counts};
pub use device::{Options, Torch};
pub(crate) use library::apparent;

use crate::boundary::{Boundary, Size};
use crate::op::{self, Op};
use crate::precision::Precision;
use operands::sizes;
use refusal::Refusal;

/// The sizes at which ops change how they are computed: pieces, and how operands have to lie for operators
/// that compute an op as one.
fn boundaries(torch: &Torch) -> Vec<Boundary> {
    let aligned = if torch.options.precision == Precision::F32 { 4 } else { 8 };
    vec![
        Boundary::new(op::GroupedMatMul::NAME, Size::Columns, aligned),
        Boundary::new(op::GroupedMatMul::NAME, Size::Inner, aligned),
        Boundary::new(op::Attention::NAME, Size::HeadWidth, 8),
        Boundary::new(op::Attention::NAME, Size::HeadWidth, 257),
        Boundary::new(op::Attention::NAME, Size::Scores, attention_composed::MOST_SCORES),
        Boundary::new(op::CrossEntropy::NAME, Size::Logits, cross_entropy::FEW_LOGITS + 1),
        Boundary::new(op::CrossEntropy::NAME, Size::Logits, cross_entropy::most_logits(torch) + 1),
        Boundary::new(op::Swiglu::NAME, Size::Elements, swiglu::PIECE),
        Boundary::new(op::SumOfSquares::NAME, Size::Elements, sums::PIECE),
        Boundary::new(op::AdamW::NAME, Size::Elements, adamw::PIECE),
    ]
}

/// Enqueues one op.
fn run(torch: &Torch, op: &Op<'_>) -> Result<(), Refusal> {
    match op {
        Op::MatMul(op) => matmul::matmul(torch, op),
        Op::GroupedMatMul(op) => grouped_matmul::grouped_matmul(torch, op),
        Op::GroupedMatMulWeights(op) => grouped_matmul::weights(torch, op),
        Op::Embedding(op) => embedding::embedding(torch, op),
        Op::EmbeddingGrad(op) => embedding::grad(torch, op),
        Op::RmsNorm(op) => rms_norm::rms_norm(torch, op),
        Op::RmsNormGrad(op) => rms_norm::grad(torch, op),
        Op::Rope(op) => rope::rope(torch, op),
        Op::Attention(op) => attention::attention(torch, op),
        Op::AttentionGrad(op) => attention::grad(torch, op),
        Op::Swiglu(op) => swiglu::swiglu(torch, op),
        Op::SwigluGrad(op) => swiglu::grad(torch, op),
        Op::Route(op) => route::route(torch, op),
        Op::RouteGrad(op) => route_grad::route_grad(torch, op),
        Op::WarmLogits(op) => route::warm_logits(torch, op),
        Op::SortByExpert(op) => sort_by_expert::sort_by_expert(torch, op),
        Op::Dispatch(op) => dispatch::dispatch(torch, op),
        Op::Combine(op) => combine::combine(torch, op),
        Op::ColumnScales(op) => norm_head::column_scales(torch, op),
        Op::ScaleColumns(op) => norm_head::scale_columns(torch, op),
        Op::CrossEntropy(op) => cross_entropy::cross_entropy(torch, op),
        Op::CrossEntropyGrad(op) => cross_entropy::grad(torch, op),
        Op::AdamW(op) => adamw::adamw(torch, op),
        Op::SumOfSquares(op) => sums::sum_of_squares(torch, op),
        Op::Moments(op) => sums::moments(torch, op),
        Op::BalanceBias(op) => balance_bias::balance_bias(torch, op),
        Op::Add(op) => elementwise::add(torch, op),
        Op::Copy(op) => elementwise::copy(torch, op),
        Op::Fill(op) => elementwise::fill(torch, op),
    }
}
