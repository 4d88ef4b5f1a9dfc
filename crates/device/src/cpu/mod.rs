//! The CPU backend: threads, SIMD, and matrix products of our own.
//!
//! Loops compute in f32; numbers of tensors are converted as they are loaded and stored, and products of bf16
//! tensors are those of bf16 units where the processor has them (`amx`, `pairs`), else of f32.
//!
//! Results are the same bits for any number of threads: work is divided by shape alone (see `team`). An op's
//! file takes the op's tensors as slices and computes on those. Reading order: `team`, `kernel`, `gemm`,
//! `micro`, then any op.

mod device;
mod kernel;
mod operands;
mod peak;
mod scratch;
mod team;
mod vector;
mod workspace;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_tiles;
mod gemm;
mod matrix;
mod micro;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod prefetch;
#[cfg(target_arch = "x86_64")]
mod thirds;

mod adamw;
mod attention;
mod attention_grad;
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

pub use device::Cpu;
pub(crate) use device::memory_bytes;
pub use kernel::Kernel;
pub use peak::multiply_adds_in_registers;

use crate::boundary::{Boundary, Size};
use crate::error::Result;
use crate::op::Op;
use team::Team;
use workspace::Workspace;

/// Runs one op.
fn run(team: &Team, space: &mut Workspace, op: &Op<'_>) -> Result<()> {
    match op {
        Op::MatMul(op) => matmul::matmul(team, op),
        Op::GroupedMatMul(op) => grouped_matmul::grouped_matmul(team, space, op),
        Op::GroupedMatMulWeights(op) => grouped_matmul::weights(team, space, op),
        Op::Embedding(op) => embedding::embedding(team, op),
        Op::EmbeddingGrad(op) => embedding::grad(team, op),
        Op::RmsNorm(op) => rms_norm::rms_norm(team, op),
        Op::RmsNormGrad(op) => rms_norm::grad(team, space, op),
        Op::Rope(op) => rope::rope(team, space, op),
        Op::Attention(op) => attention::attention(team, op),
        Op::AttentionGrad(op) => attention_grad::grad(team, space, op),
        Op::Swiglu(op) => swiglu::swiglu(team, op),
        Op::SwigluGrad(op) => swiglu::grad(team, op),
        Op::Route(op) => route::route(team, space, op),
        Op::RouteGrad(op) => route::grad(team, op),
        Op::WarmLogits(op) => route::warm_logits(team, op),
        Op::SortByExpert(op) => sort_by_expert::sort_by_expert(op),
        Op::Dispatch(op) => dispatch::dispatch(team, op),
        Op::Combine(op) => combine::combine(team, op),
        Op::ColumnScales(op) => norm_head::column_scales(team, op),
        Op::ScaleColumns(op) => norm_head::scale_columns(team, op),
        Op::CrossEntropy(op) => cross_entropy::cross_entropy(team, space, op),
        Op::CrossEntropyGrad(op) => cross_entropy::grad(team, space, op),
        Op::AdamW(op) => adamw::adamw(team, op),
        Op::SumOfSquares(op) => sums::sum_of_squares(team, space, op),
        Op::Moments(op) => sums::moments(team, space, op),
        Op::BalanceBias(op) => balance_bias::balance_bias(op),
        Op::Add(op) => elementwise::add(team, op),
        Op::Copy(op) => elementwise::copy(team, op),
        Op::Fill(op) => elementwise::fill(team, op),
    }
}

/// The sizes at which ops change how they are computed.
fn boundaries(team: &Team) -> Vec<Boundary> {
    let mut all = gemm::boundaries(team);
    all.extend(attention::BOUNDARIES);
    all.push(cross_entropy::BOUNDARY);
    all.push(route::BOUNDARY);
    let elements = [TASK_ELEMENTS, elementwise::BEYOND_CACHES];
    all.extend(elements.map(|at| Boundary::new("add", Size::Elements, at)));
    all.push(Boundary::new("swiglu", Size::Elements, TASK_ELEMENTS));
    all
}

/// Elements of one task of a loop that memory limits: large against a task's cost, small against a thread's
/// share.
const TASK_ELEMENTS: usize = 1 << 14;

/// Rows of `width` of one such task.
fn rows_of_a_task(width: usize) -> usize {
    (TASK_ELEMENTS / width.max(1)).max(1)
}
