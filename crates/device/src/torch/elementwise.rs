//! Element by element.

use super::Torch;
use super::refusal::Refusal;
use crate::op;
use crate::tensor::Kind;

pub(super) fn add(torch: &Torch, op: &op::Add<'_>) -> Result<(), Refusal> {
    torch.accumulate(&torch.floats(op.out)?, &torch.floats(op.x)?)
}

pub(super) fn copy(torch: &Torch, op: &op::Copy<'_>) -> Result<(), Refusal> {
    torch.flat(torch.written(op.out))?.set(&torch.flat(op.x)?)
}

pub(super) fn fill(torch: &Torch, op: &op::Fill<'_>) -> Result<(), Refusal> {
    let op::Fill { out, value } = *op;
    match out.kind() {
        Kind::F32 => torch.floats(out)?.fill(value),
        // The bits of whole zeros are those of zero.
        Kind::I32 | Kind::F64 if value == 0.0 => torch.bits(torch.written(out))?.fill(0.0),
        Kind::I32 => {
            let shape = super::sizes(out.shape());
            torch.store_integers(out, &torch.full(&shape, torch.torch.dtypes.i32, value.trunc())?)
        }
        Kind::F64 | Kind::Bf16 => torch.flat(out)?.fill(value),
    }
}
