//! The front doors: one function per op, which checks every shape and type, makes room for the result and runs it.

mod adamw;
mod attention;
mod balance_bias;
mod combine;
mod cross_entropy;
mod dispatch;
mod door;
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

pub use adamw::adamw;
pub use attention::{Attended, attention, attention_grad};
pub use balance_bias::balance_bias;
pub use combine::{combine, combine_onto};
pub use cross_entropy::{cross_entropy, cross_entropy_grad};
pub use dispatch::dispatch;
pub use elementwise::{add, copy, fill};
pub use embedding::{embedding, embedding_grad};
pub use grouped_matmul::{grouped_matmul, grouped_matmul_weights};
pub use matmul::{matmul, matmul_onto};
pub use norm_head::{column_scales, scale_columns};
pub use rms_norm::{rms_norm, rms_norm_grad};
pub use rope::{Rotation, rope};
pub use route::{Routing, route, route_grad, warm_logits};
pub use sort_by_expert::{Sorted, sort_by_expert};
pub use sums::{moments, sum_of_squares};
pub use swiglu::{WeightedSwigluGrad, swiglu, swiglu_grad, weighted_swiglu_grad};
