//! The alphabet: all that a chip is ever asked to do.
//!
//! One file per op or family of ops. The families are an op with its gradient (`attention`, `cross_entropy`,
//! `embedding`, `rms_norm`, `swiglu`, and `grouped_matmul` with that of its weights), `route` with its
//! gradient and its warm-up, `elementwise` (add, copy, fill), `norm_head` (column_scales, scale_columns) and
//! `sums` (sum_of_squares, moments). A file holds an op's struct, which describes itself (name, operands,
//! access, cost), and its *front door*: the checked function that builds and enqueues the op. It checks
//! shapes and kinds (a tensor's *kind* is its element type) and allocates the results that it returns. Ops
//! cannot be built in any other way. Callers import the module of all front doors, [`doors`], as
//! `lingot_device::ops`.
//!
//! To add an op, write `op/NAME.rs`, `reference/NAME.rs`, `cpu/NAME.rs` and `torch/NAME.rs`. A test of the
//! project's layout asks for the four. Then extend these files:
//!
//! 1. `op/mod.rs` (this one): the module, the struct, the front door, and the op in the list of the alphabet;
//! 2. `reference/mod.rs`, `cpu/mod.rs` and `torch/mod.rs`: the module, and an arm of the match, which the
//!    compiler asks for;
//! 3. a file of `conformance/`: the op's cases, which a test asks for;
//! 4. `tests/it/gradients/mod.rs`: the op's gradient check or the reason why it needs none, which a test asks
//!    for;
//! 5. `spec::cost`, if no formula there fits the op.
//!
//! Letters of the shapes: T tokens, S keys, D width, H heads, G kv heads (in `counts_ge`: scopes of the
//! balance loss), C head width, V vocabulary, E experts, K choices per token, R = T*K routed rows, F inner
//! width. In matrix products M, N and K are any sizes, and so K is not the choices there. A digit is a size.
//!
//! Ids and counts are i32, the rest are floats of one kind, but for what an op says it holds in that of sums:
//! beside bf16 that is f32 (see [`Holds`]). A bf16 op computes from the bf16 it is given as if nothing were
//! rounded until its output is written, once. "Adds" means that the output is accumulated into.
//! Every op is deterministic: equal inputs give equal bits, whatever the number of threads.

mod describe;
mod door;

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

pub use adamw::{AdamRule, AdamW, Stretch};
pub use attention::{Attention, AttentionGrad};
pub use balance_bias::BalanceBias;
pub use combine::Combine;
pub use cross_entropy::{CrossEntropy, CrossEntropyGrad};
pub use describe::{Access, Holds, Operand, Operands};
pub use dispatch::Dispatch;
pub use elementwise::{Add, Copy, Fill};
pub use embedding::{Embedding, EmbeddingGrad};
pub use grouped_matmul::{GroupedMatMul, GroupedMatMulWeights};
pub use matmul::{Flip, MatMul};
pub use norm_head::{ColumnScales, ScaleColumns};
pub use rms_norm::{RmsNorm, RmsNormGrad};
pub use rope::Rope;
pub use route::{Route, RouteGrad, RouteRule, WarmLogits};
pub use sort_by_expert::SortByExpert;
pub use sums::{Moments, SumOfSquares};
pub use swiglu::{Swiglu, SwigluGrad};

/// The front doors of all ops, which callers import as `lingot_device::ops`.
pub mod doors {
    pub use super::adamw::adamw;
    pub use super::attention::{Attended, attention, attention_grad};
    pub use super::balance_bias::balance_bias;
    pub use super::combine::{combine, combine_onto};
    pub use super::cross_entropy::{cross_entropy, cross_entropy_grad};
    pub use super::dispatch::dispatch;
    pub use super::elementwise::{add, copy, fill};
    pub use super::embedding::{embedding, embedding_grad};
    pub use super::grouped_matmul::{grouped_matmul, grouped_matmul_weights};
    pub use super::matmul::{matmul, matmul_onto, matmul_sums, matmul_to};
    pub use super::norm_head::{column_scales, scale_columns};
    pub use super::rms_norm::{rms_norm, rms_norm_grad};
    pub use super::rope::{Rotation, rope};
    pub use super::route::{Routing, route, route_grad, warm_logits};
    pub use super::sort_by_expert::{Sorted, sort_by_expert};
    pub use super::sums::{moments, sum_of_squares};
    pub use super::swiglu::{PlainSwigluGrad, WeightedSwigluGrad, swiglu, swiglu_grad, weighted_swiglu_grad};
}

use crate::error::{Error, Result};
use crate::tensor::Kind;
use lingot_spec::Cost;

/// The list of all ops, from which the enum and its functions follow.
macro_rules! alphabet {
    ($($Op:ident),* $(,)?) => {
        /// One op with its operands, as a backend runs it.
        ///
        /// An op cannot be built, copied or changed outside this crate, so a backend only sees ops that were
        /// checked:
        ///
        /// ```compile_fail,E0639
        /// # use lingot_device::{Flip, Kind, Tensor, op::{MatMul, Op}};
        /// fn overlapping(x: &Tensor) -> Op<'_> {
        ///     Op::MatMul(MatMul { a: x, b: x, out: x, flip: Flip::NONE, add: false })
        /// }
        /// ```
        ///
        /// ```compile_fail,E0594
        /// # use lingot_device::{Backend, Result, op::Op};
        /// fn change(device: &dyn Backend, op: &Op<'_>) -> Result<()> {
        ///     if let Op::MatMul(op) = op {
        ///         op.out = op.a;
        ///     }
        ///     device.run(op)
        /// }
        /// ```
        pub enum Op<'a> {
            $(
                #[doc = concat!("See [`", stringify!($Op), "`](crate::op::", stringify!($Op), ").")]
                $Op($Op<'a>),
            )*
        }

        impl<'a> Op<'a> {
            /// The names of all ops.
            pub const NAMES: &'static [&'static str] = &[$($Op::NAME),*];

            /// The op's name, as in profiles, certificates and errors.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$Op(_) => $Op::NAME,)* }
            }

            /// The op's tensors, in a fixed order.
            pub fn operands(&self) -> Operands<'a> {
                match self { $(Op::$Op(op) => op.operands(),)* }
            }

            /// The op's scalar parameters, as text.
            pub fn numbers(&self) -> String {
                match self { $(Op::$Op(op) => op.numbers(),)* }
            }

            /// The op's floating-point operations, and the fewest bytes that it must read and write.
            pub fn cost(&self) -> Cost {
                match self { $(Op::$Op(op) => op.cost(),)* }
            }
        }
    };
}

alphabet! {
    MatMul,
    GroupedMatMul,
    GroupedMatMulWeights,
    Embedding,
    EmbeddingGrad,
    RmsNorm,
    RmsNormGrad,
    Rope,
    Attention,
    AttentionGrad,
    Swiglu,
    SwigluGrad,
    Route,
    RouteGrad,
    WarmLogits,
    SortByExpert,
    Dispatch,
    Combine,
    ColumnScales,
    ScaleColumns,
    CrossEntropy,
    CrossEntropyGrad,
    AdamW,
    SumOfSquares,
    Moments,
    BalanceBias,
    Add,
    Copy,
    Fill,
}

impl Op<'_> {
    /// Errors if an operand is of another kind than what it holds asks for.
    pub(crate) fn check_kinds(&self) -> Result<()> {
        let wrong = |operand: Operand<'_>, wanted| {
            let found = operand.tensor.kind().name();
            Error::Kind { op: self.name(), tensor: operand.name, found, wanted }
        };
        let first = |holds| self.operands().find(|operand| operand.holds == holds);
        let (values, sums) = (first(Holds::Values), first(Holds::Sums));
        if let Some(operand) = values.filter(|operand| operand.tensor.kind() == Kind::I32) {
            return Err(wrong(operand, "bf16, f32 or f64"));
        }
        let values = values.map(|operand| operand.tensor.kind());
        if let (None, Some(operand)) = (values, sums)
            && !matches!(operand.tensor.kind(), Kind::F32 | Kind::F64)
        {
            return Err(wrong(operand, "f32 or f64"));
        }
        let of_sums = values.map(Kind::sums).or(sums.map(|operand| operand.tensor.kind()));
        for operand in self.operands() {
            let (holds, kind) = (operand.holds, operand.tensor.kind());
            holds
                .check(kind, values, of_sums.unwrap_or(Kind::F32))
                .map_err(|wanted| wrong(operand, wanted))?;
        }
        Ok(())
    }

    /// Errors if a tensor that the op writes shares memory with another operand.
    pub(crate) fn check_overlaps(&self) -> Result<()> {
        let is_written = |operand: &Operand<'_>| operand.access != Access::Read;
        for (index, out) in self.operands().enumerate().filter(|(_, operand)| is_written(operand)) {
            let mut others = self.operands().enumerate().filter(|(other, _)| *other != index);
            if others.any(|(_, other)| out.tensor.overlaps(other.tensor)) {
                return Err(Error::Overlap { op: self.name(), tensor: out.name });
            }
        }
        Ok(())
    }
}
