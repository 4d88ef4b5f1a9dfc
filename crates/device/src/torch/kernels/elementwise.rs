//! Launches of `kernels/elementwise.cu`.

use super::super::Torch;
use super::super::refusal::Refusal;
use super::super::value::Value;
use super::call::{CHUNK, Call, of_kind, thread_per};
use crate::kernels::Argument;
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
    start(call, name, call.tensor(x)?, out)
}

/// Writes a dense bf16 result of torch's into f32 sums of as many elements, or adds it to them; returns
/// whether a kernel did.
pub(in super::super) fn sum(torch: &Torch, x: &Value, out: &Tensor, adds: bool) -> Result<bool, Refusal> {
    let Some(started) = torch.own.serving(Copy::NAME) else { return Ok(false) };
    let call = Call { torch, started };
    start(&call, if adds { "add_bf16_to_f32" } else { "cast_to_f32" }, call.value(x)?, out)?;
    Ok(true)
}

fn start(call: &Call<'_>, name: &str, x: Argument, out: &Tensor) -> Result<(), Refusal> {
    let arguments = [x, call.tensor(out)?, out.len().into()];
    call.launch(name, thread_per(out.len().div_ceil(CHUNK)), &arguments)
}
