//! Operands of ops as slices, and checks of the whole numbers among them.

use super::matrix::{Factor, Matrix};
use crate::bf16::Bf16;
use crate::error::{Error, Result};
use crate::host::{Element, view, view_mut};
use crate::tensor::Tensor;

/// A number as a tensor holds it. Loops compute in f32, and convert as they load and store.
pub(super) trait Number: Element + Default + Send + Sync {
    /// The number as f32, exactly.
    fn wide(self) -> f32;
    /// The nearest number, ties to even.
    fn rounded(x: f32) -> Self;
    /// The nearest bf16.
    fn half(self) -> Bf16;
    /// A matrix of such numbers as a factor of a product.
    fn factor(matrix: Matrix<'_, Self>) -> Factor<'_>;
    /// A matrix of f32 made of such numbers as a factor of a product of them.
    fn factor_of_floats(matrix: Matrix<'_>) -> Factor<'_>;
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn rounded(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn half(self) -> Bf16 {
        Bf16::of(self)
    }

    fn factor(matrix: Matrix<'_>) -> Factor<'_> {
        Factor::F32(matrix)
    }

    fn factor_of_floats(matrix: Matrix<'_>) -> Factor<'_> {
        Factor::F32(matrix)
    }
}

impl Number for Bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        Bf16::wide(self)
    }

    #[inline(always)]
    fn rounded(x: f32) -> Bf16 {
        Bf16::of(x)
    }

    #[inline(always)]
    fn half(self) -> Bf16 {
        self
    }

    fn factor(matrix: Matrix<'_, Bf16>) -> Factor<'_> {
        Factor::Bf16(matrix)
    }

    fn factor_of_floats(matrix: Matrix<'_>) -> Factor<'_> {
        Factor::AsBf16(matrix)
    }
}

/// Runs `body`, which returns a `Result`, with `E` as the type of a tensor's numbers.
macro_rules! by_kind {
    ($tensor:expr, $E:ident => $body:expr) => {{
        let tensor: &$crate::tensor::Tensor = $tensor;
        if tensor.kind() == $crate::tensor::Kind::Bf16 {
            type $E = $crate::bf16::Bf16;
            $body
        } else {
            type $E = f32;
            $body
        }
    }};
}
pub(super) use by_kind;

/// The numbers of a tensor that holds `E`.
pub(super) fn numbers<E: Number>(tensor: &Tensor) -> Result<&[E]> {
    if tensor.kind() == E::KIND { Ok(view(tensor)) } else { Err(refused(tensor)) }
}

/// The numbers of a tensor that holds `E`, to write.
pub(super) fn numbers_mut<E: Number>(tensor: &Tensor) -> Result<&mut [E]> {
    if tensor.kind() == E::KIND { Ok(view_mut(tensor)) } else { Err(refused(tensor)) }
}

/// The numbers of a f32 tensor.
pub(super) fn floats(tensor: &Tensor) -> Result<&[f32]> {
    numbers(tensor)
}

/// The numbers of a f32 tensor, to write.
pub(super) fn floats_mut(tensor: &Tensor) -> Result<&mut [f32]> {
    numbers_mut(tensor)
}

fn refused(tensor: &Tensor) -> Error {
    Error::Unsupported {
        device: "cpu".into(),
        what: format!("computes on f32 and bf16, not on {}", tensor.kind().name()),
        hint: "the `reference` device computes in f64".into(),
    }
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
