//! The definitions: what every op means, in plain f64 loops on host memory.
//!
//! [`crate::conformance`] compares backends with these definitions; tests compare the gradients written here
//! with finite differences. A definition takes slices and returns new values; the function with the
//! op's name reads each operand into f64, exactly, and rounds each result once, to the kind of the tensor
//! that takes it. So the definitions are those of f64, f32 and bf16 tensors alike.
//! Nothing here is fast.

mod device;
mod operands;

mod adamw;
mod attention;
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
mod sort_by_expert;
mod sums;
mod swiglu;

pub use device::Reference;

use crate::op::Op;
use crate::precision::Precision;

/// Runs one op by its definition.
fn run(op: &Op<'_>, precision: Precision) {
    match op {
        Op::MatMul(op) => matmul::matmul(op, precision),
        Op::GroupedMatMul(op) => grouped_matmul::grouped_matmul(op, precision),
        Op::GroupedMatMulWeights(op) => grouped_matmul::grouped_matmul_weights(op, precision),
        Op::Embedding(op) => embedding::embedding(op),
        Op::EmbeddingGrad(op) => embedding::embedding_grad(op),
        Op::RmsNorm(op) => rms_norm::rms_norm(op),
        Op::RmsNormGrad(op) => rms_norm::rms_norm_grad(op),
        Op::Rope(op) => rope::rope(op),
        Op::Attention(op) => attention::attention(op, precision),
        Op::AttentionGrad(op) => attention::attention_grad(op, precision),
        Op::Swiglu(op) => swiglu::swiglu(op),
        Op::SwigluGrad(op) => swiglu::swiglu_grad(op),
        Op::Route(op) => route::route(op),
        Op::RouteGrad(op) => route::route_grad(op),
        Op::WarmLogits(op) => route::warm_logits(op),
        Op::SortByExpert(op) => sort_by_expert::sort_by_expert(op),
        Op::Dispatch(op) => dispatch::dispatch(op),
        Op::Combine(op) => combine::combine(op),
        Op::ColumnScales(op) => norm_head::column_scales(op),
        Op::ScaleColumns(op) => norm_head::scale_columns(op),
        Op::CrossEntropy(op) => cross_entropy::cross_entropy(op, precision),
        Op::CrossEntropyGrad(op) => cross_entropy::cross_entropy_grad(op, precision),
        Op::AdamW(op) => adamw::adamw(op),
        Op::SumOfSquares(op) => sums::sum_of_squares(op),
        Op::Moments(op) => sums::moments(op),
        Op::BalanceBias(op) => balance_bias::balance_bias(op),
        Op::Add(op) => elementwise::add(op),
        Op::Copy(op) => elementwise::copy(op),
        Op::Fill(op) => elementwise::fill(op),
    }
}
