//! Element by element.

use super::Torch;
use super::value::Words;
use crate::tensor::{Kind, Tensor};

pub(super) fn add(torch: &Torch, x: &Tensor, out: &Tensor) -> Result<(), Words> {
    torch.accumulate(&torch.floats(out)?, &torch.floats(x)?)
}

pub(super) fn fill(torch: &Torch, out: &Tensor, value: f64) -> Result<(), Words> {
    match out.kind() {
        Kind::F32 => torch.floats(out)?.fill(value),
        // The bits of whole zeros are those of zero.
        Kind::I32 | Kind::F64 if value == 0.0 => {
            let (slot, first_bytes, bytes) = torch.written(out).place();
            torch.with_slot(slot, |slot| slot.shaped(&[bytes as i64 / 4], first_bytes / 4))?.fill(0.0)
        }
        Kind::I32 => {
            let shape = super::sizes(out.shape());
            torch.store_integers(out, &torch.full(&shape, torch.torch.dtypes.i32, value.trunc())?)
        }
        Kind::F64 => torch.flat(out)?.fill(value),
    }
}
