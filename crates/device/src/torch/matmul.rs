//! The matrix product, in the precision of the device.

use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, aten::Dtype};
use crate::op::MatMul;
use crate::precision::Precision;
use crate::tensor::{Kind, Tensor};

pub(super) fn matmul(torch: &Torch, op: &MatMul<'_>) -> Result<(), Refusal> {
    let out = Matrix::of(torch, op.out, false)?;
    let (a, b) = (Matrix::of(torch, op.a, op.flip.a)?, Matrix::of(torch, op.b, op.flip.b)?);
    let (a, b) = (a.operand(torch)?, b.operand(torch)?);
    let into = Into { add: op.add, times: 1.0 };
    multiply(torch, [&a, &b], &out.value, op.out.kind(), into)
}

/// A matrix of floats, perhaps a transposed view.
pub(super) struct Matrix {
    pub(super) value: Value,
    sizes: [i64; 2],
    kind: Kind,
}

impl Matrix {
    /// Rows and columns of a tensor, read transposed where `flip` says so.
    pub(super) fn of(torch: &Torch, tensor: &Tensor, flip: bool) -> Result<Matrix, Refusal> {
        let (rows, width) = tensor.rows_and_width();
        Matrix::part(torch, tensor, [rows, width], 0, flip)
    }

    /// `rows` rows of `width`, from the element `first` on.
    pub(super) fn part(
        torch: &Torch,
        tensor: &Tensor,
        [rows, width]: [usize; 2],
        first: usize,
        flip: bool,
    ) -> Result<Matrix, Refusal> {
        let (rows, width) = (rows as i64, width as i64);
        let (sizes, strides) = if flip { ([width, rows], [1, width]) } else { ([rows, width], [width, 1]) };
        Ok(Matrix { value: torch.strided(tensor, &sizes, &strides, first)?, sizes, kind: tensor.kind() })
    }

    /// The matrix as an operand of a product in the device's precision.
    pub(super) fn operand(self, torch: &Torch) -> Result<Value, Refusal> {
        operand_of(torch, self.value, &self.sizes, self.kind)
    }
}

/// An operand of products: a bf16 one as it is where products take it so, else by [`operand`]. Elsewhere its
/// numbers are f32 already rounded.
pub(super) fn operand_of(torch: &Torch, x: Value, sizes: &[i64], kind: Kind) -> Result<Value, Refusal> {
    match kind {
        Kind::Bf16 if torch.multiplies_bf16() => Ok(x),
        Kind::Bf16 => torch.converted(&x, sizes, torch.torch.dtypes.f32),
        _ => operand(torch, x, sizes),
    }
}

/// A f32 operand, rounded to the precision of products. On the CPU it stays f32: products of bf16 are slower
/// there.
pub(super) fn operand(torch: &Torch, x: Value, sizes: &[i64]) -> Result<Value, Refusal> {
    if torch.options.precision == Precision::F32 {
        return Ok(x);
    }
    let rounded = torch.converted(&x, sizes, torch.torch.dtypes.bf16)?;
    if torch.on_cpu() { torch.converted(&rounded, sizes, torch.torch.dtypes.f32) } else { Ok(rounded) }
}

/// Where a product goes: whether it is added to what is there, and times what.
#[derive(Clone, Copy)]
pub(super) struct Into {
    pub(super) add: bool,
    pub(super) times: f64,
}

/// `out = a b` of operands by [`operand_of`]; `out` holds `kind`. It is rounded once.
pub(super) fn multiply(
    torch: &Torch,
    [a, b]: [&Value; 2],
    out: &Value,
    kind: Kind,
    into: Into,
) -> Result<(), Refusal> {
    let aten = torch.aten();
    let operands = if torch.multiplies_bf16() { Kind::Bf16 } else { Kind::F32 };
    let is_alike = operands == kind;
    if is_alike && into.add {
        return out.add_product(a, b, into.times);
    }
    if is_alike && into.times == 1.0 {
        aten.mm_out(a, b, out)?;
        return Ok(());
    }
    let widens = operands == Kind::Bf16 && kind == Kind::F32;
    if widens && !into.add && into.times == 1.0 && torch.routes.f32_results.is_found() {
        aten.mm_dtype_out(a, b, Dtype(torch.torch.dtypes.f32), out)?;
        return Ok(());
    }
    let in_place = torch.routes.sums_in_place.found().filter(|_| widens && into.add && into.times == 1.0);
    if let Some(cublas) = in_place {
        return cublas.add_product(torch, [a, b], out);
    }
    let product = if widens { product_of_bf16(torch, a, b)? } else { aten.mm(a, b)? };
    if into.add && widens && into.times == 1.0 {
        torch.accumulate(out, &product)
    } else if into.add {
        out.set(&out.minus(&product, -into.times)?)
    } else if into.times == 1.0 {
        out.set(&product)
    } else {
        out.set(&aten.mul(&product, &torch.scalar(into.times)?)?)
    }
}

/// With f32 sums where the device hands them out, else rounded to bf16.
fn product_of_bf16(torch: &Torch, a: &Value, b: &Value) -> Result<Value, Refusal> {
    let aten = torch.aten();
    if torch.routes.f32_sums.is_found() {
        aten.mm_dtype(a, b, Dtype(torch.torch.dtypes.f32))
    } else {
        aten.mm(a, b)
    }
}
