//! Launches of `kernels/elementwise.cu`.

use super::super::refusal::Refusal;
use super::call::{CHUNK, Call, of_kind, thread_per};
use crate::op::{Add, Copy};
use crate::tensor::{Kind, Tensor};

pub(super) fn add(call: &Call<'_>, op: &Add<'_>) -> Result<(), Refusal> {
    pairs(call, of_kind!(op.out.kind(), "add"), op.x, op.out)
}

/// Copies between f32 and bf16.
pub(super) fn cast(call: &Call<'_>, op: &Copy<'_>) -> Result<(), Refusal> {
    let name = if op.out.kind() == Kind::Bf16 { "cast_to_bf16" } else { "cast_to_f32" };
    pairs(call, name, op.x, op.out)
}

fn pairs(call: &Call<'_>, name: &str, x: &Tensor, out: &Tensor) -> Result<(), Refusal> {
    let arguments = [call.tensor(x)?, call.tensor(out)?, x.len().into()];
    call.launch(name, thread_per(x.len().div_ceil(CHUNK)), &arguments)
}
