//! Operands of ops as slices, and checks of the whole numbers among them.

use crate::error::{Error, Result};
use crate::host::{view, view_mut};
use crate::tensor::{Kind, Tensor};

/// The numbers of a f32 tensor.
pub(super) fn floats(tensor: &Tensor) -> Result<&[f32]> {
    f32_only(tensor)?;
    Ok(view(tensor))
}

/// The numbers of a f32 tensor, to write.
pub(super) fn floats_mut(tensor: &Tensor) -> Result<&mut [f32]> {
    f32_only(tensor)?;
    Ok(view_mut(tensor))
}

fn f32_only(tensor: &Tensor) -> Result<()> {
    if tensor.kind() == Kind::F32 {
        return Ok(());
    }
    Err(Error::Unsupported {
        device: "cpu".into(),
        what: format!("computes in f32, not in {}", tensor.kind().name()),
        hint: "the `reference` device computes in f64".into(),
    })
}

/// Whole numbers of `op`. Errors unless all lie in `least..limit`.
pub(super) fn below<'a>(
    op: &'static str,
    what: &'static str,
    tensor: &'a Tensor,
    least: i32,
    limit: usize,
) -> Result<&'a [i32]> {
    let values = view::<i32>(tensor);
    match values.iter().find(|&&value| value < least || i64::from(value) >= limit as i64) {
        None => Ok(values),
        Some(value) => Err(Error::Value {
            op,
            what,
            found: value.to_string(),
            wanted: format!("from {least} to {}", limit as i64 - 1),
        }),
    }
}
